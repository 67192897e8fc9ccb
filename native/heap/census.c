/* Blocks counted by what they are: size, state, what their first word points to in a module, and who allocated them. */
#include "heap.h"

enum { STATES = 5, MOST_PROBES = 64, PAGE = 4096, LEAST_PAGES = 16, SLACK = 40 };

/* Where such blocks are counted; NULL if they are too many kinds. The first places are for the rest of each state. */
static struct group *group_of(const struct census *c, uint64_t first_word, uint64_t size, uint32_t state, uint32_t site)
{
	uint64_t hash = (first_word ^ size * 0x9e3779b97f4a7c15ull ^ state ^ site * 0xc2b2ae3d27d4eb4full) * 0xff51afd7ed558ccdull;
	size_t at = (size_t)(hash >> 32) & (c->room - 1);
	for (int probe = 0; probe < MOST_PROBES; probe++, at++) {
		if (at < STATES || at >= c->room)
			at = STATES;
		struct group *g = &c->groups[at];
		if (!g->blocks)
			return c->used < c->room / 4 * 3 ? g : NULL;
		if (g->first_word == first_word && g->size == size && g->state == state && g->site == site)
			return g;
	}
	return NULL;
}

/* Whether the word points into a module's mapping. */
static int in_module(struct heap *h, uint64_t word)
{
	struct range *beside = &h->census.beside;
	if (word >= beside->start && word < beside->end)
		return 0;
	size_t next = heap_first_behind(h->modules.files, h->modules.n_files, word);
	if (next < h->modules.n_files && h->modules.files[next].start <= word)
		return 1;
	beside->start = next ? h->modules.files[next - 1].end : 0;
	beside->end = next < h->modules.n_files ? h->modules.files[next].start : UINT64_MAX;
	return 0;
}

/* The record of a block: its site, and the size that was asked for. 0 where there is none, or one of an earlier block, of another size (as
 * `fits` in analysis/diagnosis.py). */
static int find_record(struct census *c, uint64_t address, uint64_t size, uint32_t entry[2])
{
	uint64_t at = c->records.table + (address >> 4) * 4;
	if (!c->records.n_runs)
		return 0;
	const struct segment *run = &c->records.runs[c->last_run];
	if (at - run->start >= run->size) {
		c->last_run = heap_segment(c->records.runs, c->records.n_runs, at);
		run = &c->records.runs[c->last_run];
	}
	if (at - run->start >= run->size || run->size - (at - run->start) < 2 * sizeof *entry)
		return 0;
	memcpy(entry, run->data + (at - run->start), 2 * sizeof *entry);
	uint64_t requested = entry[1], slack = SLACK;
	if (size >= LEAST_PAGES * PAGE)
		slack += PAGE;
	if (!(address % PAGE))
		slack += address & -address;
	return entry[0] && (requested == UINT32_MAX || (requested <= size && size <= requested + slack));
}

/* How many bytes of a block, which has room for `size`, the program uses: what is behind was left by earlier ones. */
uint64_t heap_bytes_in_use(struct heap *h, uint64_t address, uint64_t size)
{
	uint32_t entry[2];
	int is_known = h->census.records.bounds && find_record(&h->census, address, size, entry) && entry[1] != UINT32_MAX;
	return is_known ? entry[1] : size;
}

/* Count a block. When three quarters of the places are in use, or too many kinds have neighbouring ones, further kinds are counted together,
 * by state alone. */
void heap_count(struct heap *h, uint64_t address, uint64_t first_word, uint64_t size, uint32_t state)
{
	struct census *c = &h->census;
	struct group *g = c->last;
	uint32_t entry[2], site = find_record(c, address, size, entry) ? entry[0] : 0;
	if (!in_module(h, first_word))
		first_word = 0;
	/* Neighbours are often alike. */
	if (!g->blocks || g->first_word != first_word || g->size != size || g->state != state || g->site != site)
		g = group_of(c, first_word, size, state, site);
	if (!g) {
		g = &c->groups[state];
	} else if (!g->blocks) {
		*g = (struct group){.first_word = first_word, .size = size, .site = site};
		c->used++;
	}
	g->state = state;
	g->blocks++;
	g->bytes += size;
	c->last = g;
}

/* Count the blocks that are neither free nor reachable, which were counted when their words were followed. Returns how many groups there are,
 * and moves them to the first places. */
int64_t heap_census(struct heap *h)
{
	struct census *c = &h->census;
	int64_t count = 0;
	if (!c->groups)
		return 0;
	for (uint64_t block = 0; (block = heap_next_unlike(h, block, REACHABLE)) < h->n_blocks; block++) {
		uint64_t first_word = 0;
		if (h->state[block] == FREE)
			continue;
		heap_word(h, h->address[block], &first_word);
		heap_count(h, h->address[block], first_word, heap_block_size(h, block), h->state[block]);
	}
	for (size_t place = 0; place < c->room; place++)
		if (c->groups[place].blocks)
			c->groups[count++] = c->groups[place];
	c->groups = NULL;
	return count;
}
