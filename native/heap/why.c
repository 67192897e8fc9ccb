/* Who holds a block: the shortest path to it from a root, and the words that point into it. */
#include "heap.h"

#include <stdlib.h>

enum { NO_BLOCK = -1, FREED = -2, NO_MEMORY = -3 };

struct step { /* a block on the path, and the word that points into it */
	uint64_t address;
	uint64_t size;
	uint64_t held_at; /* address of that word; for a register its index among the values */
	uint32_t is_value;
	uint32_t interior;
};

struct search {
	struct heap *heap;
	uint32_t *before;  /* the block that holds the pointer; itself for one that a root holds */
	uint64_t *held_at; /* 0 where the block was not met */
	uint8_t *is_value;
	uint32_t *queue;
	uint64_t tail;
	int64_t wanted;
	int found;
};

static void meet(struct search *s, uint64_t pointer, uint64_t held_at, int is_value, int64_t holder, const struct words *w, uint64_t i)
{
	int interior;
	int64_t block = heap_find(s->heap, pointer, &interior);
	if (block < 0 || s->held_at[block] || s->heap->state[block] == FREE || (interior && heap_is_left_over(s->heap, pointer, w, i)))
		return;
	s->held_at[block] = held_at + 1;
	s->is_value[block] = (uint8_t)is_value;
	s->before[block] = (uint32_t)(holder < 0 ? block : holder);
	s->queue[s->tail++] = (uint32_t)block;
	s->found |= block == s->wanted;
}

/* Each word of memory that may be a pointer into a heap. */
static void look_through(struct search *s, uint64_t start, uint64_t end, int64_t holder)
{
	struct words w;
	uint64_t first = start;
	for (uint64_t stop; (start = heap_living(s->heap, start, end, &stop)) < end; start = stop) {
		for (uint64_t address = start; !s->found && (w.count = heap_words(s->heap, &address, stop, &w.bytes)); address += 8 * w.count) {
			w.of = heap_words_of(holder >= 0, first, address);
			for (uint64_t i = 0; i < w.count && !s->found; i++) {
				uint64_t word;
				memcpy(&word, w.bytes + 8 * i, 8);
				meet(s, word, address + 8 * i, 0, holder, &w, i);
			}
		}
	}
}

static int64_t steps_to(const struct search *s, struct step *steps, size_t room)
{
	int64_t count = 0;
	for (uint64_t block = (uint64_t)s->wanted; (size_t)count < room; block = s->before[block]) {
		uint64_t at = s->held_at[block] - 1, word = 0;
		int interior = 0;
		if (!s->is_value[block] && heap_word(s->heap, at, &word))
			heap_find(s->heap, word, &interior);
		steps[count++] = (struct step){.address = s->heap->address[block],
					       .size = heap_block_size(s->heap, block),
					       .held_at = at,
					       .is_value = s->is_value[block],
					       .interior = (uint32_t)interior};
		if (s->before[block] == block)
			break;
	}
	return count;
}

/*
 * The shortest path from a root to the block that holds `address`, the block first, up to `room` steps. Returns their number: 0 where no
 * path leads to it, NO_BLOCK where no block is there, FREED for one that is free.
 */
int64_t leakline_heap_path(struct heap *h, const struct range *roots, size_t n_roots, const uint64_t *values, size_t n_values, uint64_t address,
			   struct step *steps, size_t room)
{
	int interior;
	int64_t wanted = heap_find(h, address, &interior), count = NO_MEMORY;
	if (wanted < 0)
		return NO_BLOCK;
	if (h->state[wanted] == FREE)
		return FREED;
	struct search s = {.heap = h, .wanted = wanted};
	s.before = malloc(h->n_blocks * sizeof *s.before);
	s.held_at = calloc(h->n_blocks, sizeof *s.held_at);
	s.is_value = malloc(h->n_blocks);
	s.queue = malloc(h->n_blocks * sizeof *s.queue);
	if (s.before && s.held_at && s.is_value && s.queue) {
		struct words registers = {.of = ROOT};
		for (size_t i = 0; i < n_values && !s.found; i++)
			meet(&s, values[i], i, 1, -1, &registers, i);
		for (size_t i = 0; i < n_roots; i++)
			look_through(&s, roots[i].start, roots[i].end, -1);
		for (uint64_t head = 0; head < s.tail && !s.found; head++) {
			uint64_t block = s.queue[head], start = h->address[block];
			look_through(&s, start, start + heap_block_size(h, block), (int64_t)block);
		}
		count = s.found ? steps_to(&s, steps, room) : 0;
	}
	free(s.before);
	free(s.held_at);
	free(s.is_value);
	free(s.queue);
	return count;
}

/* The words of other blocks that point into the block at `address`, as steps that lead to their holders. Returns how many, up to `room`. */
int64_t leakline_heap_referrers(struct heap *h, uint64_t address, struct step *steps, size_t room)
{
	int interior;
	int64_t wanted = heap_find(h, address, &interior);
	size_t count = 0;
	if (wanted < 0)
		return NO_BLOCK;
	uint64_t first = h->address[wanted], last = first + heap_block_size(h, (uint64_t)wanted);
	for (uint64_t block = 0; block < h->n_blocks && count < room; block++) {
		if (h->state[block] == FREE || block == (uint64_t)wanted)
			continue;
		uint64_t start = h->address[block], size = heap_block_size(h, block), words, word;
		const uint8_t *bytes;
		for (uint64_t at = start; count < room && (words = heap_words(h, &at, start + size, &bytes)); at += 8 * words)
			for (uint64_t i = 0; i < words && count < room; i++) {
				memcpy(&word, bytes + 8 * i, 8);
				if (word >= first && word < last && !heap_lies_in(h->dead, h->n_dead, at + 8 * i))
					steps[count++] = (struct step){.address = start, .size = size, .held_at = at + 8 * i, .interior = word != first};
			}
	}
	return (int64_t)count;
}
