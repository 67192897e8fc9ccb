/* Each entry point of the allocator from a function of its own; `blocks` holds what each gave. */
#define _GNU_SOURCE
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALONE __attribute__((noinline, noclone))

void *blocks[32];

ALONE void by_malloc(void) { blocks[0] = malloc(101); }
ALONE void by_calloc(void) { blocks[1] = calloc(3, 34); }
ALONE void by_realloc(void) { blocks[2] = realloc(malloc(7), 103); }
ALONE void by_reallocarray(void) { blocks[3] = reallocarray(NULL, 4, 26); }
ALONE void by_memalign(void) { blocks[4] = memalign(64, 105); }
ALONE void by_aligned_alloc(void) { blocks[5] = aligned_alloc(64, 128); }
ALONE void by_posix_memalign(void) { if (posix_memalign(&blocks[6], 256, 107)) abort(); }
ALONE void by_valloc(void) { blocks[7] = valloc(108); }
ALONE void by_pvalloc(void) { blocks[8] = pvalloc(109); }
ALONE void by_strdup(void) { blocks[9] = strdup("nine bytes"); }
ALONE void by_in_place(void) { void *p = malloc(300); blocks[10] = realloc(p, 299); if (p != blocks[10]) abort(); }
ALONE void by_failing(void) { blocks[11] = malloc(112); if (realloc(blocks[11], (size_t)-4096) || calloc((size_t)-1, 16)) abort(); }
ALONE void by_mmap(void) { blocks[12] = malloc(40 << 20); }
ALONE void by_huge(void) { blocks[13] = malloc(0x180000000); }
ALONE void by_zero(void) { blocks[14] = malloc(0); }

int main(void)
{
	void (*volatile all[])(void) = {by_malloc, by_calloc, by_realloc, by_reallocarray, by_memalign, by_aligned_alloc, by_posix_memalign,
		by_valloc, by_pvalloc, by_strdup, by_in_place, by_failing, by_mmap, by_huge, by_zero};
	for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
		all[i]();
	void *misaligned = blocks[15];
	if (posix_memalign(&misaligned, 3, 16) != 22 || misaligned != blocks[15])
		return 1;
	return 0;
}
