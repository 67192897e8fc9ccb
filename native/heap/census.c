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

enum { STATES = 5, MOST_PROBES = 64 };

/* Where such blocks are counted; NULL if they are too many kinds. The first places are for the rest of each state. */
static struct group *group_of(struct group *groups, size_t room, size_t used, uint64_t first_word, uint64_t size, uint32_t state)
{
	uint64_t hash = (first_word ^ size * 0x9e3779b97f4a7c15ull ^ state) * 0xff51afd7ed558ccdull;
	size_t at = (size_t)(hash >> 32) & (room - 1);
	for (int probe = 0; probe < MOST_PROBES; probe++, at++) {
		if (at < STATES || at >= room)
			at = STATES;
		struct group *g = &groups[at];
		if (!g->blocks)
			return used < room / 4 * 3 ? g : NULL;
		if (g->first_word == first_word && g->size == size && g->state == state)
			return g;
	}
	return NULL;
}

/*
 * Count the blocks that are not free. `groups` has `room` places, a power of two, all zero; those with blocks are filled afterwards. When three
 * quarters are in use, or too many kinds have neighbouring places, further kinds are counted together, by state alone.
 */
void leakline_heap_census(struct heap *h, const struct range *files, size_t n_files, struct group *groups, size_t room)
{
	struct group *g = groups;
	size_t used = 0;
	for (uint64_t block = 0; block < h->n_blocks; block++) {
		uint32_t state = h->state[block];
		if (state == FREE)
			continue;
		uint64_t first_word = 0, size = heap_block_size(h, block);
		heap_word(h, h->address[block], &first_word);
		if (!heap_lies_in(files, n_files, first_word))
			first_word = 0;
		/* Neighbours are often alike. */
		if (!g->blocks || g->first_word != first_word || g->size != size || g->state != state)
			g = group_of(groups, room, used, first_word, size, state);
		if (!g)
			g = &groups[state];
		else if (!g->blocks) {
			*g = (struct group){.first_word = first_word, .size = size};
			used++;
		}
		g->state = state;
		g->blocks++;
		g->bytes += size;
	}
}
