/* Blocks counted by what they are: size, state, and what their first word points to in a module. */
#include "heap.h"

#include <stdlib.h>

struct group {
	uint64_t first_word; /* an address in a module's mapping, or 0 */
	uint64_t size;       /* usable bytes of each; 0 where there were more kinds of blocks than room for groups */
	uint64_t blocks;
	uint64_t bytes;
	uint32_t state;
	uint32_t pad;
};

static size_t place_of(const struct group *groups, size_t mask, uint64_t first_word, uint64_t size, uint32_t state)
{
	uint64_t hash = (first_word ^ size * 0x9e3779b97f4a7c15ull ^ state) * 0xff51afd7ed558ccdull;
	size_t at = (size_t)(hash >> 32) & mask;
	while (groups[at].blocks && (groups[at].first_word != first_word || groups[at].size != size || groups[at].state != state))
		at = (at + 1) & mask;
	return at;
}

/*
 * Count the blocks that are not free. `groups` has `room` places, a power of two, all zero; those with blocks are filled afterwards. When three
 * quarters are in use, further kinds are counted together, by state alone.
 */
void leakline_heap_census(struct heap *h, const struct range *files, size_t n_files, struct group *groups, size_t room)
{
	size_t used = 0, at = 0;
	for (uint64_t block = 0; block < h->n_blocks; block++) {
		uint64_t first_word = 0, size = heap_block_size(h, block);
		if (h->state[block] == FREE)
			continue;
		heap_word(h, h->address[block], &first_word);
		if (!heap_lies_in(files, n_files, first_word))
			first_word = 0;
		/* Neighbours are often alike. */
		if (groups[at].first_word != first_word || groups[at].size != size || groups[at].state != h->state[block] || !groups[at].blocks)
			at = place_of(groups, room - 1, first_word, size, h->state[block]);
		if (!groups[at].blocks && used >= room / 4 * 3) {
			first_word = 0;
			at = place_of(groups, room - 1, 0, 0, h->state[block]);
			groups[at].size = 0;
		} else if (!groups[at].blocks) {
			groups[at].size = size;
		}
		used += !groups[at].blocks;
		groups[at].first_word = first_word;
		groups[at].state = h->state[block];
		groups[at].blocks++;
		groups[at].bytes += size;
	}
}
