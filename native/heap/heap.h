/* Blocks and reachability of a glibc heap in a copied address space. Nothing here touches the target. */
#ifndef LEAKLINE_HEAP_H
#define LEAKLINE_HEAP_H

#include <stddef.h>
#include <stdint.h>

/* Layout version of the structs below, checked by the Python side when it loads the library. */
#define LEAKLINE_HEAP_ABI 2

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

struct heap {
	const struct segment *segments;
	size_t n_segments;
	size_t last_segment;
	uint64_t *address; /* of each block */
	uint8_t *state;
	uint32_t *leader; /* index of the block that an INDIRECT one hangs on */
	uint64_t n_blocks, room;
	struct area *areas;
	size_t n_areas, areas_room;
	uint64_t low, high; /* bounds of all areas */
	uint32_t *stack;
	uint64_t stack_depth, stack_room;
	int out_of_memory;
	struct modules modules; /* while marking */
};

/* Bytes of the copy from address on, and how many follow without a gap; NULL where nothing was copied. */
const uint8_t *heap_bytes(struct heap *h, uint64_t address, uint64_t *available);
/* Where nothing was copied, move *page on to the next page that was and return 1; else return 0. */
int heap_skip(struct heap *h, uint64_t *page, uint64_t page_size);
int heap_word(struct heap *h, uint64_t address, uint64_t *value);
uint64_t heap_block_size(struct heap *h, uint64_t block);
/* Index of the block that holds address, or -1; *interior tells whether it points past the block's start. */
int64_t heap_find(struct heap *h, uint64_t address, int *interior);
int heap_add_block(struct heap *h, uint64_t address);
int heap_add_area(struct heap *h, uint64_t start, uint64_t end, uint64_t first_block, int mmapped);

#endif
