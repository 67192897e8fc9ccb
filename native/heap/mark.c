/* Reachability, in the terms of valgrind memcheck (memcheck/mc_leakcheck.c): definite, indirect, possible, reachable. */
#include "heap.h"

#include <stdlib.h>

#define MOST_VTABLE_ENTRIES 20

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

/* Whether a word looks like the address of a vtable: in a module's mapping, and the first of its entries that is not 0 is code. */
static int is_vtable(struct heap *h, uint64_t address)
{
	if (address & 7 || !heap_lies_in(h->modules.files, h->modules.n_files, address))
		return 0;
	for (int entry = 0; entry < MOST_VTABLE_ENTRIES; entry++) {
		uint64_t function;
		if (!heap_word(h, address + 8 * (uint64_t)entry, &function))
			return 1; /* pages that the program never wrote are not copied: a constant of the module, as a vtable is */
		if (function)
			return heap_lies_in(h->modules.code, h->modules.n_code, function);
	}
	return 0;
}

/* Whether so many bytes can have been asked for: a chunk has 8 more, in steps of 16 (or pages), and 32 at least. */
static int may_be_requested(struct heap *h, uint64_t block, uint64_t size)
{
	uint64_t usable = heap_block_size(h, block), header = 0;
	heap_word(h, h->address[block] - 8, &header);
	return size && size <= usable && (usable == 24 || usable - size < (header & 2 ? 4096 + 16 : 16));
}

/*
 * Whether a pointer into a block is one that C++ or an allocator on top of malloc keeps instead of one to its start. The rules are those
 * of valgrind's --leak-check-heuristics=all (memcheck/mc_leakcheck.c, heuristic_reachedness), for usable sizes.
 */
static int stands_for_start(struct heap *h, uint64_t block, uint64_t pointer)
{
	uint64_t start = h->address[block], size = heap_block_size(h, block), first, second;
	if (!heap_word(h, start, &first))
		return 0;
	if (pointer == start + 24 && heap_word(h, start + 8, &second) && first <= second && second < size)
		return may_be_requested(h, block, 24 + second + 1); /* std::string before C++11: length, capacity, count */
	if (pointer == start + 8 && first) {
		if (first < size && may_be_requested(h, block, 8 + first))
			return 1; /* length64: a block with its length before it, as sqlite3's */
		uint64_t most = (size - 8) / first * first; /* new T[n] with destructors: n before the elements */
		if (most && may_be_requested(h, block, 8 + most))
			return 1;
	}
	return !(pointer & 7) && heap_word(h, pointer, &second) && is_vtable(h, second) && is_vtable(h, first); /* a second base class */
}

/* A pointer held by something reachable (or only possibly so): its block becomes reachable, or possible. */
static void reach(struct heap *h, uint64_t pointer, int only_possible)
{
	int interior;
	int64_t block = heap_find(h, pointer, &interior);
	if (block < 0)
		return;
	if (h->state[block] >= REACHABLE)
		return;
	if (interior && !only_possible && stands_for_start(h, (uint64_t)block, pointer))
		interior = 0;
	uint8_t state = interior || only_possible ? POSSIBLE : REACHABLE;
	if (h->state[block] >= state)
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
static void scan_part(struct heap *h, uint64_t start, uint64_t end, int only_possible, int64_t leader)
{
	const uint8_t *bytes;
	for (uint64_t address = start, count; (count = heap_words(h, &address, end, &bytes)); address += 8 * count)
		for (uint64_t i = 0; i < count; i++) {
			uint64_t word;
			memcpy(&word, bytes + 8 * i, 8);
			if (word < h->low || word >= h->high)
				continue;
			if (leader < 0)
				reach(h, word, only_possible);
			else
				hang(h, word, (uint32_t)leader);
		}
}

static void scan(struct heap *h, uint64_t start, uint64_t end, int only_possible, int64_t leader)
{
	for (uint64_t stop; (start = heap_living(h, start, end, &stop)) < end; start = stop)
		scan_part(h, start, stop, only_possible, leader);
}

static void drain(struct heap *h, int64_t leader)
{
	while (h->stack_depth && !h->out_of_memory) {
		uint64_t block = h->stack[--h->stack_depth], start = h->address[block];
		scan(h, start, start + heap_block_size(h, block), h->state[block] == POSSIBLE, leader);
	}
}

/* Leave memory out, which must stay there until `h` is freed. */
void leakline_heap_leave_out(struct heap *h, const struct range *dead, size_t n)
{
	h->dead = dead;
	h->n_dead = n;
	h->living = (struct range){0, 0};
}

/*
 * Mark from the roots: words of memory and values of registers. `modules` are the mappings of files, to tell vtables. Returns 0, or -1 out
 * of memory.
 */
int leakline_heap_mark(struct heap *h, const struct range *roots, size_t n_roots, const uint64_t *values, size_t n_values,
		       const struct modules *modules)
{
	h->modules = *modules;
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

/* Nearly all blocks are reachable: their sizes are what the others' leave of all. */
void leakline_heap_totals(struct heap *h, struct totals *t)
{
	memset(t, 0, sizeof *t);
	t->blocks[REACHABLE] = h->n_blocks;
	t->bytes[REACHABLE] = h->bytes;
	for (uint64_t block = 0; block < h->n_blocks; block++) {
		if (h->state[block] == REACHABLE)
			continue;
		uint64_t size = heap_block_size(h, block);
		t->blocks[h->state[block]]++;
		t->bytes[h->state[block]] += size;
		t->blocks[REACHABLE]--;
		t->bytes[REACHABLE] -= size;
	}
}

/* The lost block that another hangs on. Leaders hang on leaders, as each node of a list does on the next: shorten the way for later ones. */
static uint64_t leader_of(struct heap *h, uint64_t block)
{
	while (h->state[block] == INDIRECT) {
		uint32_t next = h->leader[block];
		if (h->state[next] == INDIRECT)
			h->leader[block] = h->leader[next];
		block = next;
	}
	return block;
}

/* Blocks that are neither reachable nor free, in the order in which they were walked, up to `room`. */
size_t leakline_heap_lost(struct heap *h, struct lost_block *lost, size_t room)
{
	size_t count = 0;
	for (uint64_t block = 0; block < h->n_blocks && count < room; block++) {
		if (h->state[block] == REACHABLE || h->state[block] == FREE)
			continue;
		uint64_t leader = leader_of(h, block);
		struct lost_block *l = &lost[count++];
		*l = (struct lost_block){.address = h->address[block], .size = heap_block_size(h, block), .leader = h->address[leader], .kind = h->state[block]};
		heap_word(h, l->address, &l->first_word);
	}
	return count;
}
