/* Blocks and reachability of a glibc heap in a copied address space. Nothing here touches the target. */
#ifndef LEAKLINE_HEAP_H
#define LEAKLINE_HEAP_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Layout version of the structs below, checked by the Python side when it loads the library. */
#define LEAKLINE_HEAP_ABI 9

struct segment { /* a run of copied memory; sorted by start, never overlapping */
	uint64_t start;
	uint64_t size;
	const uint8_t *data;
};

struct range { /* [start, end) in the target's address space */
	uint64_t start;
	uint64_t end;
};

enum block_state { UNREACHED, POSSIBLE, REACHABLE, INDIRECT, FREE };

enum walk_end { WALK_REACHED_END, WALK_FENCEPOST, WALK_CORRUPT, WALK_NOT_COPIED, WALK_NO_MEMORY };

struct walk_result {
	uint64_t stopped_at; /* chunk address where the walk ended */
	uint64_t blocks;     /* chunks in use that were added */
	uint64_t free_bytes; /* in chunks that bins hold */
	uint32_t end;        /* enum walk_end */
};

struct lost_block {
	uint64_t address; /* what malloc returned */
	uint64_t size;    /* usable bytes */
	uint64_t leader;  /* address of the definitely lost block it hangs on; its own if it is one */
	uint64_t first_word;
	uint32_t kind; /* enum block_state: UNREACHED (definite), INDIRECT or POSSIBLE */
	uint32_t pad;
};

struct totals { /* per enum block_state */
	uint64_t blocks[5];
	uint64_t bytes[5];
};

struct area { /* memory that one run of chunks fills: a heap, or one mmapped chunk */
	uint64_t start;
	uint64_t end;
	uint64_t first_block; /* index of its first block */
	uint64_t blocks;
	int mmapped;
	uint64_t *starts; /* bit per 16-byte granule, set where a block starts; NULL when it has one block at most */
	uint32_t *rank;   /* blocks before each 64-granule word */
};

struct modules { /* mappings of files, each sorted by start */
	const struct range *files; /* readable */
	size_t n_files;
	const struct range *code; /* executable */
	size_t n_code;
};

enum words_of { ROOT, BLOCK_FROM_START, BLOCK_FROM_WITHIN };

struct words { /* that were copied one behind the other; of a block from an even one on */
	const uint8_t *bytes;
	uint64_t count;
	enum words_of of;
};

struct pile { /* indexes of blocks */
	uint32_t *blocks;
	uint64_t depth, room;
};

struct group { /* blocks of one state, size, first word and site */
	uint64_t first_word; /* an address in a module's mapping, or 0 */
	uint64_t size;       /* usable bytes of each; 0 where there were more kinds of blocks than room for groups */
	uint64_t blocks;
	uint64_t bytes;
	uint32_t state;
	uint32_t site; /* the agent's number for the stack that allocated them; 0 where that is not known */
};

struct records { /* the agent's table: for each 16 bytes of memory 4, of a block its site, and then its size as it was requested */
	const struct segment *runs; /* as much of it as was copied */
	size_t n_runs;
	uint64_t table;	 /* its address */
	uint64_t bounds; /* whether the program uses no more of a block than it asked for */
};

struct census {
	struct group *groups; /* a power of two of places, all zero at first; NULL where nothing is to be counted */
	size_t room, used;
	struct records records;
	size_t last_run;
	struct group *last;  /* that of the block that was counted last */
	struct range beside; /* a gap between modules' mappings, where the last word that points to none lies */
};

struct heap {
	const struct segment *segments;
	size_t n_segments;
	size_t last_segment;
	size_t last_area;
	int has_popcnt;
	uint64_t *address; /* of each block */
	uint8_t *state;
	uint32_t *leader; /* index of the block that an INDIRECT one hangs on */
	uint64_t n_blocks, room;
	struct area *areas;
	size_t n_areas, areas_room;
	uint64_t low, high; /* bounds of all areas */
	uint64_t bytes;     /* usable, of all blocks */
	uint64_t freed;     /* usable, of the blocks that are FREE */
	struct pile stack;   /* blocks whose words are still to be followed */
	struct pile waiting; /* those that are only possible so far */
	int out_of_memory;
	uint8_t *failed; /* while resuming: bit per granule of [failed_from, failed_end) where a walk fails */
	uint64_t failed_from, failed_end;
	uint64_t patience; /* links that may still be followed to tell tcaches from what looks like one */
	struct modules modules; /* while marking */
	struct census census;
	const struct range *arenas;
	size_t n_arenas;
	const struct range *dead; /* memory that holds only left-overs, within blocks too; sorted, apart from each other */
	size_t n_dead;
	struct range living; /* the gap between them that was met last; none has an end of 0 */
};

/* What one file here calls in another goes by no symbol table: no other library can take its place. */
#pragma GCC visibility push(hidden)
size_t heap_segment(const struct segment *segments, size_t n, uint64_t address);
const uint8_t *heap_bytes_elsewhere(struct heap *h, uint64_t address, uint64_t *available);

/* Bytes of the copy from address on, and how many follow without a gap; NULL where nothing was copied. */
static inline const uint8_t *heap_bytes(struct heap *h, uint64_t address, uint64_t *available)
{
	const struct segment *s = &h->segments[h->last_segment];
	if (address - s->start >= s->size)
		return heap_bytes_elsewhere(h, address, available);
	*available = s->size - (address - s->start);
	return s->data + (address - s->start);
}

/* The first address from `address` on that was copied; `end` if none is before it. */
uint64_t heap_copied(struct heap *h, uint64_t address, uint64_t end);

/* Words, aligned to 8 bytes, that were copied one behind the other: *address moves on to the next of them, *bytes gets their place. Returns
 * how many follow there before `end`; 0 when none is left. */
static inline uint64_t heap_words(struct heap *h, uint64_t *address, uint64_t end, const uint8_t **bytes)
{
	uint64_t at = (*address + 7) & ~7ull, available;
	while (at < end && end - at >= 8) {
		*bytes = heap_bytes(h, at, &available);
		if (*bytes && available >= 8) {
			*address = at;
			return (available < end - at ? available : end - at) / 8;
		}
		at = (heap_copied(h, *bytes ? at + available : at, end) + 7) & ~7ull;
	}
	return 0;
}

static inline int heap_word(struct heap *h, uint64_t address, uint64_t *value)
{
	uint64_t available;
	const uint8_t *bytes = heap_bytes(h, address, &available);
	if (!bytes || available < 8)
		return 0;
	memcpy(value, bytes, 8);
	return 1;
}

/* Bytes behind an mmapped chunk with these two words, to the end of its mapping: 16 since glibc 2.43, none before.
 * That a mapping is a whole number of pages tells which. */
static inline uint64_t heap_mmapped_tail(uint64_t before, uint64_t header)
{
	return ((before & ~7ull) + (header & ~7ull)) % 4096 ? 16 : 0;
}

/* Usable bytes of a chunk with these two words: all have 8 bytes behind their end too, but for mmapped ones without a tail. */
static inline uint64_t heap_usable(uint64_t before, uint64_t header)
{
	return (header & ~7ull) - (header & 2 && !heap_mmapped_tail(before, header) ? 16 : 8);
}

static inline uint64_t heap_block_size(struct heap *h, uint64_t block)
{
	uint64_t before = 0, header = 0;
	if (!heap_word(h, h->address[block] - 8, &header) || (header & 2 && !heap_word(h, h->address[block] - 16, &before)))
		return 0;
	return heap_usable(before, header);
}

int heap_make_room(struct heap *h);
int heap_add_area(struct heap *h, uint64_t start, uint64_t end, uint64_t first_block, int mmapped);
const struct area *heap_area_elsewhere(struct heap *h, uint64_t address);
uint64_t heap_next_unlike(const struct heap *h, uint64_t block, uint8_t state);
uint64_t heap_bytes_in_use(struct heap *h, uint64_t address, uint64_t size);
void heap_count(struct heap *h, uint64_t address, uint64_t first_word, uint64_t size, uint32_t state);
int64_t heap_census(struct heap *h);
int heap_is_left_over(struct heap *h, uint64_t pointer, const struct words *w, uint64_t i);
#pragma GCC visibility pop

static inline int heap_add_block(struct heap *h, uint64_t address, uint64_t size)
{
	if (h->n_blocks == h->room && !heap_make_room(h))
		return 0;
	h->address[h->n_blocks++] = address;
	h->bytes += size;
	return 1;
}

/* Bits that are set. Before x86-64-v2 there is no instruction for it, and the compiler would call a function each time. */
static inline uint64_t heap_bits(const struct heap *h, uint64_t word)
{
#ifdef __x86_64__
	if (h->has_popcnt) {
		uint64_t count;
		__asm__("popcnt %1, %0" : "=r"(count) : "r"(word) : "cc");
		return count;
	}
#else
	(void)h;
#endif
	return (uint64_t)__builtin_popcountll(word);
}

/* The area that holds the address; NULL for none. */
static inline const struct area *heap_area(struct heap *h, uint64_t address)
{
	const struct area *a = &h->areas[h->last_area];
	if (address - a->start < a->end - a->start)
		return a;
	return heap_area_elsewhere(h, address);
}

/* Index of the block that holds address, or -1; *interior tells whether it points past the block's start. */
static inline int64_t heap_find(struct heap *h, uint64_t address, int *interior)
{
	if (address < h->low || address >= h->high)
		return -1;
	const struct area *a = heap_area(h, address);
	if (!a || !a->blocks)
		return -1;
	uint64_t block = a->first_block;
	if (a->starts) {
		uint64_t offset = address - a->start, word = offset >> 10, bit = offset >> 4 & 63;
		uint64_t before = a->starts[word] & (~0ull >> (63 - bit));
		uint64_t count = a->rank[word] + heap_bits(h, before);
		if (!count)
			return -1;
		block += count - 1;
		if (before >> bit && !(offset & 15)) { /* the start of a block, as nearly all pointers */
			*interior = 0;
			return (int64_t)block;
		}
	}
	uint64_t start = h->address[block];
	/* malloc keeps no pointer to a mapping's start: who does made the mapping itself, and it only looks like a chunk. */
	if (a->mmapped && address == a->start) {
		*interior = 0;
		return (int64_t)block;
	}
	*interior = address != start;
	if (address < start || (address != start && address - start >= heap_block_size(h, block)))
		return -1;
	return (int64_t)block;
}

/* Index of the first of the ranges, which are sorted, that ends behind the address. */
static inline size_t heap_first_behind(const struct range *ranges, size_t count, uint64_t address)
{
	size_t low = 0, high = count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (ranges[middle].end <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* Whether the address lies in one of the ranges, which are sorted. */
static inline int heap_lies_in(const struct range *ranges, size_t count, uint64_t address)
{
	size_t first = heap_first_behind(ranges, count, address);
	return first < count && ranges[first].start <= address;
}

static inline enum words_of heap_words_of(int of_block, uint64_t start, uint64_t address)
{
	if (!of_block || address & 15)
		return ROOT;
	return address == start ? BLOCK_FROM_START : BLOCK_FROM_WITHIN;
}

/* Where memory that is not dead goes on, from `from` on; *stop is where that part of it ends, up to `end`. */
static inline uint64_t heap_living(struct heap *h, uint64_t from, uint64_t end, uint64_t *stop)
{
	/* One block after the other lies in the same gap. */
	if (from < h->living.start || end > h->living.end) {
		size_t next = heap_first_behind(h->dead, h->n_dead, from);
		if (next < h->n_dead && h->dead[next].start <= from)
			from = h->dead[next++].end;
		h->living.start = next ? h->dead[next - 1].end : 0;
		h->living.end = next < h->n_dead ? h->dead[next].start : UINT64_MAX;
	}
	*stop = h->living.end < end ? h->living.end : end;
	return from;
}

#endif
