/* Reachability, in the terms of valgrind memcheck (memcheck/mc_leakcheck.c): definite, indirect, possible, reachable. */
#include "heap.h"

#include <stdlib.h>

#define MOST_VTABLE_ENTRIES 20

static void push(struct heap *h, struct pile *pile, uint64_t block)
{
	if (pile->depth == pile->room) {
		uint64_t room = pile->room ? pile->room * 2 : 4096;
		uint32_t *blocks = realloc(pile->blocks, room * sizeof *blocks);
		if (!blocks) {
			h->out_of_memory = 1;
			return;
		}
		pile->blocks = blocks;
		pile->room = room;
	}
	pile->blocks[pile->depth++] = (uint32_t)block;
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
	if (!(pointer & 63) && heap_word(h, pointer + 8, &second) && second == start)
		return 1; /* what the loader aligns by hand, and keeps to free it (`to_free` of elf/dl-find_object.c, since glibc 2.35) */
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

/* Whether a pointer into a block is one that the program may have: up to the end of what it asked for. */
static int is_in_use(struct heap *h, uint64_t block, uint64_t pointer)
{
	uint64_t start = h->address[block];
	return !h->census.records.bounds || pointer - start <= heap_bytes_in_use(h, start, heap_block_size(h, block));
}

/* What holds the words that are followed. */
enum holder { ROOT_OR_REACHABLE, ONLY_POSSIBLE, LOST };

/* A pointer held by something reachable: its block becomes reachable; or possible, by a pointer into it. Blocks that are possible wait until
 * all that is reachable is known, so that the words of each block are read once. */
static void reach(struct heap *h, uint64_t pointer, const struct words *w, uint64_t i)
{
	int interior;
	int64_t block = heap_find(h, pointer, &interior);
	if (block < 0 || h->state[block] >= REACHABLE)
		return;
	if (!interior || stands_for_start(h, (uint64_t)block, pointer)) {
		h->state[block] = REACHABLE;
		push(h, &h->stack, (uint64_t)block);
	} else if (h->state[block] == UNREACHED && is_in_use(h, (uint64_t)block, pointer) && !heap_is_left_over(h, pointer, w, i)) {
		h->state[block] = POSSIBLE;
		push(h, &h->waiting, (uint64_t)block);
	}
}

/* A pointer held by a block that is possible: so is its block. One held by a lost block: its block hangs on that one's leader. */
static void hang(struct heap *h, uint64_t pointer, const struct words *w, uint64_t i, enum holder holder, uint64_t leader)
{
	int interior;
	int64_t block = heap_find(h, pointer, &interior);
	if (block < 0 || h->state[block] != UNREACHED)
		return;
	if (interior && (!is_in_use(h, (uint64_t)block, pointer) || heap_is_left_over(h, pointer, w, i)))
		return;
	if (holder == ONLY_POSSIBLE) {
		h->state[block] = POSSIBLE;
	} else if ((uint64_t)block == leader) {
		return;
	} else {
		h->state[block] = INDIRECT;
		h->leader[block] = (uint32_t)leader;
	}
	push(h, &h->stack, (uint64_t)block);
}

static inline void follow(struct heap *h, const struct words *w, enum holder holder, uint64_t leader)
{
	uint64_t low = h->low, span = h->high - low, word;
	for (uint64_t i = 0; i < w->count; i++) {
		memcpy(&word, w->bytes + 8 * i, 8);
		if (word - low >= span)
			continue;
		if (holder == ROOT_OR_REACHABLE)
			reach(h, word, w, i);
		else
			hang(h, word, w, i, holder, leader);
	}
}

/* Words of memory that are aligned to 8 bytes; what was not copied holds no pointer. */
static void scan(struct heap *h, uint64_t start, uint64_t end, int of_block, enum holder holder, uint64_t leader)
{
	uint64_t first = start;
	struct words w;
	for (uint64_t stop; (start = heap_living(h, start, end, &stop)) < end; start = stop)
		for (uint64_t address = start; (w.count = heap_words(h, &address, stop, &w.bytes)); address += 8 * w.count) {
			w.of = heap_words_of(of_block, first, address);
			follow(h, &w, holder, leader);
		}
}

/* At most the last two words of a block lie behind what was asked for, and of the smallest ones the first too, which malloc overwrites while it
 * is free. Only where they may be pointers it is worth to look how many words are in use. */
static inline uint64_t words_in_use(struct heap *h, uint64_t start, const uint8_t *bytes, uint64_t size)
{
	uint64_t last[2], low = h->low, span = h->high - low;
	if (size < sizeof last)
		return size / 8;
	memcpy(last, bytes + size - sizeof last, sizeof last);
	return last[0] - low < span || last[1] - low < span ? heap_bytes_in_use(h, start, size) / 8 : size / 8;
}

static inline void drain(struct heap *h, enum holder holder, uint64_t leader)
{
	while (h->stack.depth && !h->out_of_memory) {
		uint64_t block = h->stack.blocks[--h->stack.depth], start = h->address[block], available, header = 0, first = 0;
		const uint8_t *chunk = heap_bytes(h, start - 16, &available);
		if (chunk && available >= 24) {
			memcpy(&header, chunk + 8, 8);
			memcpy(&first, chunk + 16, 8);
		}
		uint64_t size = header & 2 ? 0 : (header & ~7ull) - 8;
		if (size && available >= 16 && size <= available - 16 && start >= h->living.start && start + size <= h->living.end) {
			struct words w = {chunk + 16, words_in_use(h, start, chunk + 16, size), BLOCK_FROM_START};
			follow(h, &w, holder, leader);
		} else { /* at the edge of what was copied, or of what is dead, or mmapped */
			size = heap_block_size(h, block);
			scan(h, start, start + heap_bytes_in_use(h, start, size), 1, holder, leader);
			if (!header)
				heap_word(h, start, &first);
		}
		if (holder == ROOT_OR_REACHABLE && h->census.groups)
			heap_count(h, start, first, size, REACHABLE);
	}
}

/* Leave memory out, which must stay there until `h` is freed. */
void leakline_heap_leave_out(struct heap *h, const struct range *dead, size_t n)
{
	h->dead = dead;
	h->n_dead = n;
	h->living = (struct range){0, 0};
}

/* Where the arenas' bins are (struct malloc_state), sorted; must stay there until `h` is freed. */
void leakline_heap_arenas(struct heap *h, const struct range *arenas, size_t n)
{
	h->arenas = arenas;
	h->n_arenas = n;
}

/*
 * Mark from the roots: words of memory and values of registers. `modules` are the mappings of files, to tell vtables. `groups` has `room`
 * places, a power of two, all zero, where blocks are counted as they are met; NULL where nobody asks. `records` tell who allocated them. Returns
 * how many groups there are, which come first; or -1 out of memory.
 */
int64_t leakline_heap_mark(struct heap *h, const struct range *roots, size_t n_roots, const uint64_t *values, size_t n_values,
			   const struct modules *modules, struct group *groups, size_t room, const struct records *records)
{
	h->modules = *modules;
	h->census = (struct census){.groups = groups, .room = room, .last = groups, .records = *records};
	struct words registers = {.of = ROOT};
	for (size_t i = 0; i < n_values; i++)
		reach(h, values[i], &registers, i);
	for (size_t i = 0; i < n_roots; i++) {
		scan(h, roots[i].start, roots[i].end, 0, ROOT_OR_REACHABLE, 0);
		drain(h, ROOT_OR_REACHABLE, 0);
	}
	drain(h, ROOT_OR_REACHABLE, 0);
	for (uint64_t i = 0; i < h->waiting.depth; i++) {
		if (h->state[h->waiting.blocks[i]] != POSSIBLE)
			continue;
		push(h, &h->stack, h->waiting.blocks[i]);
		drain(h, ONLY_POSSIBLE, 0);
	}
	for (uint64_t block = 0; (block = heap_next_unlike(h, block, REACHABLE)) < h->n_blocks; block++) {
		if (h->state[block] != UNREACHED)
			continue;
		push(h, &h->stack, block);
		drain(h, LOST, block);
	}
	return h->out_of_memory ? -1 : heap_census(h);
}

/* Nearly all blocks are reachable: their sizes are what the others' leave of all. */
void leakline_heap_totals(struct heap *h, struct totals *t)
{
	memset(t, 0, sizeof *t);
	t->blocks[REACHABLE] = h->n_blocks;
	t->bytes[REACHABLE] = h->bytes;
	for (uint64_t block = 0; (block = heap_next_unlike(h, block, REACHABLE)) < h->n_blocks; block++) {
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
	for (uint64_t block = 0; (block = heap_next_unlike(h, block, REACHABLE)) < h->n_blocks && count < room; block++) {
		if (h->state[block] == FREE)
			continue;
		uint64_t leader = leader_of(h, block);
		struct lost_block *l = &lost[count++];
		*l = (struct lost_block){.address = h->address[block], .size = heap_block_size(h, block), .leader = h->address[leader], .kind = h->state[block]};
		heap_word(h, l->address, &l->first_word);
	}
	return count;
}
