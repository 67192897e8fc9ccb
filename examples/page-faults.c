/* Gets pages in each of the ways that a program can, one after the other: `leakline faults -- ./page-faults FILE`. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 1000, SIZE = PAGES * PAGE };
static volatile long sum;

static void read_all(char *memory)
{
	for (int i = 0; i < PAGES; i++, usleep(100))
		sum += memory[i * PAGE];
}

static void write_all(char *memory)
{
	for (int i = 0; i < PAGES; i++, usleep(100))
		memory[i * PAGE] = 1;
}

int main(int argc, char **argv)
{
	char *zeros = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *fresh = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	madvise(zeros, SIZE, MADV_NOHUGEPAGE);
	madvise(fresh, SIZE, MADV_NOHUGEPAGE);
	read_all(zeros);          /* nothing was ever written there: the page of zeros */
	write_all(fresh);         /* the first touch */
	if (argc > 1) {
		int file = open(argv[1], O_RDONLY);
		posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
		char *text = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
		madvise(text, SIZE, MADV_RANDOM);
		read_all(text);   /* has to come from the disk */
		write_all(text);  /* a private copy of the file's page */
	}
	if (!fork()) {
		write_all(fresh); /* shared with the parent until now: a copy */
		return 0;
	}
	wait(NULL);
	write_all(fresh);         /* the child has ended: the page is ours alone again */
	return 0;
}
