/* Reachability, in the terms of valgrind memcheck (memcheck/mc_leakcheck.c): definite, indirect, possible, reachable. */
#include "heap.h"

#include <stdlib.h>
#include <string.h>

static void push(struct heap *h, uint64_t block)
{
	if (h->stack_depth == h->stack_room) {
		uint64_t room = h->stack_room ? h->stack_room * 2 : 4096;
		uint32_t *stack = realloc(h->stack, room * sizeof *stack);
		if (!stack) {
			h->out_of_memory = 1;
			return;
		}
		h->stack = stack;
		h->stack_room = room;
	}
	h->stack[h->stack_depth++] = (uint32_t)block;
}

/* A pointer held by something reachable (or only possibly so): its block becomes reachable, or possible. */
static void reach(struct heap *h, uint64_t pointer, int only_possible)
{
	int interior;
	int64_t block = heap_find(h, pointer, &interior);
	if (block < 0)
		return;
	uint8_t state = interior || only_possible ? POSSIBLE : REACHABLE;
	if (h->state[block] == FREE || h->state[block] >= state)
		return;
	h->state[block] = state;
	push(h, (uint64_t)block);
}

/* A pointer held by a lost block: what it names hangs on that block's leader. */
static void hang(struct heap *h, uint64_t pointer, uint32_t leader)
{
	int interior;
	int64_t block = heap_find(h, pointer, &interior);
	if (block < 0 || h->state[block] != UNREACHED || (uint32_t)block == leader)
		return;
	h->state[block] = INDIRECT;
	h->leader[block] = leader;
	push(h, (uint64_t)block);
}

/* Words of memory that are aligned to 8 bytes; what was not copied holds no pointer. */
static void scan(struct heap *h, uint64_t start, uint64_t end, int only_possible, int64_t leader)
{
	uint64_t address = (start + 7) & ~7ull;
	while (address + 8 <= end) {
		uint64_t available;
		const uint8_t *bytes = heap_bytes(h, address, &available);
		if (!bytes || available < 8) {
			address = (address | 4095) + 1;
			continue;
		}
		if (available > end - address)
			available = end - address;
		for (uint64_t offset = 0; offset + 8 <= available; offset += 8) {
			uint64_t word;
			memcpy(&word, bytes + offset, 8);
			if (word < h->low || word >= h->high)
				continue;
			if (leader < 0)
				reach(h, word, only_possible);
			else
				hang(h, word, (uint32_t)leader);
		}
		address += available & ~7ull;
	}
}

static void drain(struct heap *h, int64_t leader)
{
	while (h->stack_depth && !h->out_of_memory) {
		uint64_t block = h->stack[--h->stack_depth], start = h->address[block];
		scan(h, start, start + heap_block_size(h, block), h->state[block] == POSSIBLE, leader);
	}
}

/* Mark from the roots: words of memory and values of registers. Returns 0, or -1 out of memory. */
int leakline_heap_mark(struct heap *h, const struct range *roots, size_t n_roots, const uint64_t *values, size_t n_values)
{
	for (size_t i = 0; i < n_values; i++)
		reach(h, values[i], 0);
	for (size_t i = 0; i < n_roots; i++) {
		scan(h, roots[i].start, roots[i].end, 0, -1);
		drain(h, -1);
	}
	drain(h, -1);
	for (uint64_t block = 0; block < h->n_blocks; block++) {
		if (h->state[block] != UNREACHED)
			continue;
		push(h, block);
		drain(h, (int64_t)block);
	}
	return h->out_of_memory ? -1 : 0;
}

void leakline_heap_totals(struct heap *h, struct totals *t)
{
	memset(t, 0, sizeof *t);
	for (uint64_t block = 0; block < h->n_blocks; block++) {
		t->blocks[h->state[block]]++;
		t->bytes[h->state[block]] += heap_block_size(h, block);
	}
}

/* Blocks that are neither reachable nor free, in the order in which they were walked, up to `room`. */
size_t leakline_heap_lost(struct heap *h, struct lost_block *lost, size_t room)
{
	size_t count = 0;
	for (uint64_t block = 0; block < h->n_blocks && count < room; block++) {
		if (h->state[block] == REACHABLE || h->state[block] == FREE)
			continue;
		uint64_t leader = block;
		while (h->state[leader] == INDIRECT)
			leader = h->leader[leader];
		struct lost_block *l = &lost[count++];
		*l = (struct lost_block){.address = h->address[block], .size = heap_block_size(h, block), .leader = h->address[leader], .kind = h->state[block]};
		heap_word(h, l->address, &l->first_word);
	}
	return count;
}
