/* Grows by 8 KiB a hundred times a second: by malloc, by mmap, or by malloc while more is taken and given back. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { SIZE = 8192, ROOM = 1 << 20 };
static char *kept[1 << 20];

__attribute__((noinline)) static char *take(void)
{
	char *block = malloc(SIZE);
	memset(block, 1, SIZE); /* MALLOC */
	return block;
}

__attribute__((noinline)) static char *map(void)
{
	char *block = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memset(block, 1, SIZE); /* MMAP */
	return block;
}

__attribute__((noinline)) static void come_and_go(void)
{
	char *block = mmap(NULL, ROOM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	madvise(block, ROOM, MADV_NOHUGEPAGE);
	memset(block, 1, ROOM); /* GIVEN BACK */
	munmap(block, ROOM);
}

int main(int count, char **arguments)
{
	(void)count;
	puts("READY");
	fflush(stdout);
	for (int i = 0; i < 1 << 20; i++) {
		kept[i] = !strcmp(arguments[1], "mmap") ? map() : take();
		if (!strcmp(arguments[1], "mixed"))
			come_and_go();
		usleep(10000);
	}
}
