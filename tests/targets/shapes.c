/* One hard shape of heap a mode. Each loses 10 blocks (sizes below), and holds as many. */
#define _GNU_SOURCE
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/mman.h>

#define COUNT 10
static void *held[COUNT];
static void **elsewhere;

__attribute__((noinline)) static void wipe(void)
{
	volatile char stack[65536];
	for (unsigned i = 0; i < sizeof stack; i++)
		stack[i] = 0;
}

static void *aligned(size_t alignment, size_t size)
{
	void *p = NULL;
	return posix_memalign(&p, alignment, size) ? NULL : p;
}

__attribute__((noinline)) static void make(const char *mode)
{
	if (!strcmp(mode, "mmapped"))
		for (int i = 0; i < COUNT; i++) {
			memset(malloc(1 << 20), 1, 1 << 20);
			held[i] = malloc(1 << 20);
		}
	if (!strcmp(mode, "mmapped-aligned"))
		for (int i = 0; i < COUNT; i++) {
			size_t alignment = (size_t[]){64, 4096, 65536}[i % 3];
			memset(aligned(alignment, 1 << 20), 1, 1 << 20);
			held[i] = aligned(alignment, 1 << 20);
		}
	if (!strcmp(mode, "aligned"))
		for (int i = 0; i < COUNT; i++) {
			memset(aligned(256, 2000), 1, 2000);
			held[i] = aligned(256, 2000);
		}
	if (!strcmp(mode, "sbrk"))
		for (int i = 0; i < COUNT; i++) {
			memset(malloc(100000), 1, 100000);
			char *ours = sbrk(5000 + 16 * i);
			memset(ours, 0x21, 5000);
			held[i] = malloc(100000);
			if (i == 5) { /* a pointer that only memory of our own sbrk holds */
				*(void **)(((uintptr_t)ours + 7) & ~(uintptr_t)7) = held[i];
				held[i] = NULL;
			}
		}
	if (!strcmp(mode, "sbrk-top")) { /* the blocks behind our own sbrk are free again: only the top chunk lies there */
		for (int i = 0; i < COUNT; i++) {
			memset(malloc(1000), 1, 1000);
			held[i] = malloc(1000);
		}
		memset(sbrk(5000), 0x21, 5000);
		void *behind = malloc(120000);
		memset(behind, 1, 120000);
		free(behind);
	}
	if (!strcmp(mode, "read-only")) {
		elsewhere = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		for (int i = 0; i < COUNT; i++) {
			memset(malloc(1000), 1, 1000);
			elsewhere[i] = malloc(1000);
		}
		mprotect(elsewhere, 4096, PROT_READ);
	}
	if (!strcmp(mode, "no-access")) {
		elsewhere = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		for (int i = 0; i < COUNT; i++) {
			memset(malloc(1000), 1, 1000);
			elsewhere[i] = malloc(1000);
		}
		mprotect(elsewhere, 4096, PROT_NONE);
	}
	if (!strcmp(mode, "shared")) {
		elsewhere = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		for (int i = 0; i < COUNT; i++) {
			memset(malloc(1000), 1, 1000);
			elsewhere[i] = malloc(1000);
		}
	}
	if (!strcmp(mode, "shared-file")) { /* a file that ends within its page, written without touching the page */
		int file = memfd_create("pointers", 0);
		char pointers[100] = {0};
		elsewhere = NULL;
		(void)!ftruncate(file, 100);
		mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
		for (int i = 0; i < COUNT; i++) {
			memset(malloc(1000), 1, 1000);
			((void **)pointers)[i] = malloc(1000);
		}
		(void)!pwrite(file, pointers, sizeof pointers, 0);
		memset(pointers, 0, sizeof pointers);
	}
	if (!strcmp(mode, "bins")) { /* freed neighbours: bin heads and chunks point near the lost blocks */
		void *freed[COUNT];
		for (int i = 0; i < COUNT; i++) {
			memset(malloc(1000), 1, 1000);
			freed[i] = malloc(2000 + 2000 * i);
			held[i] = malloc(48);
		}
		for (int i = 0; i < COUNT; i++)
			free(freed[i]);
		memset(freed, 0, sizeof freed);
		free(malloc(200000));
	}
	if (!strcmp(mode, "cached")) { /* tcache and fastbins hold what was freed: neither lost nor held */
		void *freed[100];
		for (int i = 0; i < COUNT; i++) {
			memset(malloc(1000), 1, 1000);
			held[i] = malloc(1000);
		}
		for (int i = 0; i < 100; i++)
			freed[i] = malloc(16 + 24 * (i % 5));
		for (int i = 0; i < 100; i++)
			free(freed[i]);
		memset(freed, 0, sizeof freed);
	}
	if (!strcmp(mode, "trimmed-large")) { /* unused parts of blocks were never touched */
		for (int i = 0; i < COUNT; i++) {
			*(char *)malloc(100000) = 1;
			held[i] = malloc(100000);
		}
	}
}

int main(int count, char **arguments)
{
	setvbuf(stdout, NULL, _IONBF, 0);
	if (count > 1)
		make(arguments[1]);
	wipe();
	puts("READY");
	for (;;)
		pause();
}
