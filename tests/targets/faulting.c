/* Gets pages, each way by itself, when told to by a line on stdin; then says what the kernel counted meanwhile. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 512, HUGE = 2 << 20 };
static const size_t SIZE = (size_t)PAGES * PAGE;
static volatile long sum;
static int monitor;

static char *anonymous(size_t size, int flags)
{
	char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		exit(3);
	if (!(flags & MAP_POPULATE))
		madvise(memory, size, MADV_NOHUGEPAGE);
	return memory;
}

static void *provide(void *unused)
{
	static char page[PAGE] __attribute__((aligned(PAGE))) = { 1 };
	struct uffd_msg message;
	(void)unused;
	while (read(monitor, &message, sizeof message) == sizeof message) {
		struct uffdio_copy copy = { .dst = message.arg.pagefault.address & -PAGE, .src = (long)page, .len = PAGE };
		ioctl(monitor, UFFDIO_COPY, &copy);
	}
	return NULL;
}

static void watch(char *memory)
{
	pthread_t thread;
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register range = { .range = { (long)memory, SIZE }, .mode = UFFDIO_REGISTER_MODE_MISSING };
	monitor = syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	if (monitor < 0 || ioctl(monitor, UFFDIO_API, &api) || ioctl(monitor, UFFDIO_REGISTER, &range)) {
		puts("REFUSED");
		exit(0);
	}
	pthread_create(&thread, NULL, provide, NULL);
	usleep(100000);
}

static void reads(char *memory) { for (size_t at = 0; at < SIZE; at += PAGE) sum += memory[at]; } /* READS */
static void writes(char *memory) { for (size_t at = 0; at < SIZE; at += PAGE) memory[at] = 2; } /* WRITES */
static void *writes_in_thread(void *memory) { writes(memory); return NULL; }

int main(int argc, char **arguments)
{
	const char *how = arguments[1];
	struct rusage before, after;
	pthread_t threads[4];
	char *memory, line[16];
	int file = argc > 2 ? open(arguments[2], O_RDWR) : -1;
	int zero = open("/dev/zero", O_RDONLY);
	int shared = !strncmp(how, "shared-file", 11);
	if (file >= 0) {
		memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, shared ? MAP_SHARED : MAP_PRIVATE, file, 0);
		madvise(memory, SIZE, MADV_RANDOM);
	} else if (!strcmp(how, "huge")) {
		memory = anonymous(8 * HUGE, MAP_PRIVATE);
		memory = (char *)(((long)memory + HUGE - 1) & -HUGE);
		madvise(memory, 4 * HUGE, MADV_HUGEPAGE);
	} else {
		memory = anonymous(!strcmp(how, "threads") ? 4 * SIZE : SIZE, !strncmp(how, "shared-memory", 13) ? MAP_SHARED : MAP_PRIVATE);
	}
	if (!strcmp(how, "fork-parent") || !strcmp(how, "fork-child") || !strcmp(how, "swap"))
		writes(memory);
	if (!strcmp(how, "zero-then-write") || !strcmp(how, "shared-file-again"))
		reads(memory);
	if (!strcmp(how, "userfaultfd"))
		watch(memory);
	if (!strcmp(how, "swap"))
		madvise(memory, SIZE, 21 /* MADV_PAGEOUT */);
	writes(anonymous(SIZE, MAP_PRIVATE)); /* what the functions themselves need is there from now on */
	puts("READY");
	fflush(stdout);
	(void)!fgets(line, sizeof line, stdin);
	getrusage(RUSAGE_SELF, &before);
	if (!strcmp(how, "first-touch") || !strcmp(how, "private-file-write") || !strcmp(how, "zero-then-write")
	    || !strncmp(how, "shared-file", 11) || !strcmp(how, "shared-memory")) {
		writes(memory);
	} else if (!strcmp(how, "zero-page") || !strcmp(how, "file") || !strcmp(how, "userfaultfd") || !strcmp(how, "swap")) {
		reads(memory);
	} else if (!strcmp(how, "given-back")) {
		writes(memory);
		madvise(memory, SIZE, MADV_DONTNEED);
		writes(memory);
	} else if (!strcmp(how, "fork-parent")) {
		int child = fork();
		if (!child)
			pause();
		writes(memory); /* FORKED */
		kill(child, 9);
		wait(NULL);
	} else if (!strcmp(how, "fork-child")) {
		if (!fork()) {
			writes(memory); /* IN CHILD */
			_exit(0);
		}
		wait(NULL);
	} else if (!strcmp(how, "kernel-copy")) {
		(void)!read(zero, memory, SIZE); /* COPY */
	} else if (!strcmp(how, "populate")) {
		anonymous(SIZE, MAP_PRIVATE | MAP_POPULATE); /* POPULATE */
	} else if (!strcmp(how, "huge")) {
		memset(memory, 1, 4 * HUGE); /* MEMSET */
	} else if (!strcmp(how, "threads")) {
		for (int i = 0; i < 4; i++)
			pthread_create(&threads[i], NULL, writes_in_thread, memory + i * SIZE);
		for (int i = 0; i < 4; i++)
			pthread_join(threads[i], NULL);
	} else if (!strcmp(how, "storm")) {
		for (int i = 0; i < atoi(arguments[2]); i++) {
			writes(memory);
			madvise(memory, SIZE, MADV_DONTNEED);
		}
	}
	getrusage(RUSAGE_SELF, &after);
	printf("DONE %ld %ld\n", after.ru_minflt - before.ru_minflt, after.ru_majflt - before.ru_majflt);
	fflush(stdout);
	(void)!fgets(line, sizeof line, stdin);
	return 0;
}
