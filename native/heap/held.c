/* The blocks that a root leads to, one by one. */
#include "heap.h"

/* Fill in where they are and their usable sizes, up to `room` of them; returns how many. */
size_t leakline_heap_held(struct heap *h, uint64_t *addresses, uint64_t *sizes, size_t room)
{
	size_t n = 0;
	for (uint64_t block = 0; block < h->n_blocks && n < room; block++) {
		if (h->state[block] != REACHABLE)
			continue;
		addresses[n] = h->address[block];
		sizes[n++] = heap_block_size(h, block);
	}
	return n;
}
