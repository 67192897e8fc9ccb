// Holds memory in one of the ways that make accounting stumble: argv[1] says which. Prints READY, then waits for its stdin to close.
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <unistd.h>

#define SIZE (64UL << 20)
#define CHECK(x) do { if (!(x)) { perror(#x); exit(77); } } while (0)

static char *anonymous(int flags) {
	char *p = mmap(NULL, SIZE + (2 << 20), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
	CHECK(p != MAP_FAILED);
	return (char *)(((unsigned long)p + (2 << 20) - 1) & -(2UL << 20));
}

static void fill(char *p, unsigned long size) {
	for (unsigned long i = 0; i < size; i += 4096)
		memcpy(p + i, &i, sizeof i);
}

int main(int argc, char **argv) {
	const char *how = argv[1];
	int children = 0;
	if (!strcmp(how, "lazyfree")) {
		char *p = anonymous(0);
		CHECK(madvise(p, SIZE, MADV_NOHUGEPAGE) == 0);
		fill(p, SIZE);
		CHECK(madvise(p, SIZE, MADV_FREE) == 0);
	} else if (!strcmp(how, "thp")) {
		char *p = anonymous(0);
		CHECK(madvise(p, SIZE, MADV_HUGEPAGE) == 0);
		fill(p, SIZE);
		for (unsigned long i = 0; i < SIZE; i += 2 << 20)
			CHECK(madvise(p + i, 1 << 20, MADV_DONTNEED) == 0);
	} else if (!strcmp(how, "memfd")) {
		int fd = memfd_create("cache", 0);
		CHECK(fd >= 0 && ftruncate(fd, SIZE) == 0);
		char *p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		CHECK(p != MAP_FAILED);
		fill(p, SIZE);
		munmap(p, SIZE);
	} else if (!strcmp(how, "hugetlb")) {
		char *p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
		CHECK(p != MAP_FAILED);
		fill(p, SIZE);
	} else if (!strcmp(how, "ksm")) {
		char *p = anonymous(0);
		CHECK(madvise(p, SIZE, MADV_NOHUGEPAGE) == 0 && madvise(p, SIZE, MADV_MERGEABLE) == 0);
		memset(p, 7, SIZE);
	} else if (!strcmp(how, "swap")) {
		char *p = anonymous(0);
		CHECK(madvise(p, SIZE, MADV_NOHUGEPAGE) == 0);
		fill(p, SIZE);
		CHECK(madvise(p, SIZE, MADV_PAGEOUT) == 0); // before the fork: pages of two processes are left alone
		if (fork() == 0) {
			close(0);
			close(1);
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			pause();
			return 0;
		}
		children = 1;
	} else if (!strcmp(how, "shmemswap")) {
		char *p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		CHECK(p != MAP_FAILED);
		fill(p, SIZE);
		CHECK(madvise(p, SIZE, MADV_PAGEOUT) == 0);
	} else if (!strcmp(how, "sysv")) {
		int id = shmget(IPC_PRIVATE, SIZE, IPC_CREAT | 0600);
		CHECK(id >= 0);
		char *p = shmat(id, NULL, 0);
		CHECK(p != (void *)-1);
		fill(p, SIZE);
		shmdt(p);
		printf("%d\n", id);
	} else if (!strcmp(how, "chunk")) {
		char *p = malloc(SIZE);
		fill(p, SIZE);
	} else {
		return 2;
	}
	puts("READY");
	fflush(stdout);
	while (getchar() != EOF) {
	}
	if (children)
		kill(0, 15);
	return 0;
}
