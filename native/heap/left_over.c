/* Links of malloc's bins that are still in memory which is in use again. */
#include "heap.h"

/* Whether the pointer is the address of a chunk as malloc has it: that lies in the last 8 bytes of the block before. */
static int is_chunk(struct heap *h, uint64_t pointer)
{
	int interior;
	int64_t block = heap_find(h, pointer, &interior);
	return block >= 0 && interior && pointer + 8 == h->address[block] + heap_block_size(h, (uint64_t)block);
}

/* Word `i`, 0 before the first and behind the last. */
static uint64_t word_at(const struct words *w, uint64_t i)
{
	uint64_t word = 0;
	if (i < w->count)
		memcpy(&word, w->bytes + 8 * i, 8);
	return word;
}

/* Whether a word may be the size of a chunk in a bin: the one before it is in use. */
static int may_be_size(const struct heap *h, uint64_t word)
{
	return (word & 0xb) == 1 && word >= 32 && word < h->high - h->low;
}

static int is_bin(struct heap *h, uint64_t word)
{
	return heap_lies_in(h->arenas, h->n_arenas, word);
}

/* Whether a word may link a chunk: to a bin or to another chunk, which may by now lie within a larger one. */
static int may_be_link(struct heap *h, uint64_t word)
{
	int interior;
	if (is_bin(h, word))
		return 1;
	if (word & 15 || word < h->low || word >= h->high || !heap_area(h, word))
		return 0;
	return heap_find(h, word, &interior) < 0 || interior;
}

/*
 * Whether word `i`, a pointer into a block, is left over from the time when its memory was free and a bin linked it. Such a chunk has, behind its
 * size, pointers to its neighbours in the list (fd, bk), and a large one those to the next sizes (fd_nextsize, bk_nextsize): to chunks, or to the
 * arena's bins (malloc/malloc.c). Some of these words may have been written since. Of the four, `fd` is the even one: chunks are aligned to 16.
 */
int heap_is_left_over(struct heap *h, uint64_t pointer, const struct words *w, uint64_t i)
{
	if (w->of == ROOT || pointer & 15)
		return 0;
	uint64_t fd = i & ~1ull, other = word_at(w, i ^ 1), two_before = word_at(w, fd - 2), before = word_at(w, fd - 1);
	int chunk = is_chunk(h, pointer), behind_bin = is_bin(h, two_before) || is_bin(h, before);
	if (!fd && w->of == BLOCK_FROM_START) /* its block's own chunk: the program has most likely written the first word */
		return chunk && (i == 1 || may_be_link(h, other));
	if (chunk && (may_be_size(h, before) || may_be_link(h, other) || (may_be_link(h, two_before) && may_be_link(h, before))))
		return 1;
	if (may_be_size(h, before) && (is_bin(h, other) || is_chunk(h, other)))
		return 1;
	return behind_bin && (chunk || (may_be_size(h, word_at(w, fd - 3)) && is_chunk(h, other)));
}
