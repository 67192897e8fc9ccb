/* A library with an allocator of its own, whose free() refuses what is not its own. */
#include <stddef.h>

static char heap[1 << 20];
static size_t used;

void *malloc(size_t size)
{
	void *block = heap + used;
	used += (size + 31) & ~15ul;
	return block;
}

void *calloc(size_t count, size_t size) { return malloc(count * size); }

void *realloc(void *block, size_t size) { return block ? NULL : malloc(size); }

void free(void *block)
{
	if (block && ((char *)block < heap || (char *)block >= heap + sizeof heap))
		__builtin_trap();
}
