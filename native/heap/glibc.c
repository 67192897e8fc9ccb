/* glibc's chunks: malloc/malloc.c and malloc/arena.c of 2.28 to 2.43, x86-64. */
#include "heap.h"

#include <stdlib.h>

enum { PREV_INUSE = 1, IS_MMAPPED = 2, FLAGS = 7, ALIGN = 16, MINSIZE = 32, FENCE = 16 };

/* Add the chunks in use from `first` up to `end` (the arena's top chunk, or the end of an older heap of an arena).
 * A chunk is in use when the next one says so; what tcaches and fastbins hold looks in use and is taken out later. `torn`: it was copied while
 * the program changed it. */
void leakline_heap_walk(struct heap *h, uint64_t first, uint64_t end, int torn, struct walk_result *r)
{
	uint64_t chunk = first, first_block = h->n_blocks, header, next, before, expected = MINSIZE;
	*r = (struct walk_result){.end = WALK_REACHED_END};
	if (chunk < end && !heap_word(h, chunk + 8, &header)) {
		r->end = WALK_NOT_COPIED;
		end = chunk;
	}
	while (chunk < end) {
		uint64_t size = header & ~(uint64_t)FLAGS;
		/* Neighbours are often alike. Where a branch on that is foretold, the CPU reads the next headers before it has this one: the compiler
		 * must not know that both values are one. */
		uint64_t guess = expected;
		__asm__("" : "+r"(guess));
		if (size == expected) {
			size = guess;
			__asm__ volatile("" : "+r"(size));
		}
		if (size == FENCE) { /* the first of two headers */
			r->end = heap_word(h, chunk + 24, &next) && (next & ~(uint64_t)FLAGS) <= FENCE ? WALK_FENCEPOST : WALK_CORRUPT;
			break;
		}
		if (size < MINSIZE || size % ALIGN || header & IS_MMAPPED || size > end - chunk) {
			r->end = WALK_CORRUPT;
			break;
		}
		if (!heap_word(h, chunk + size + 8, &next)) {
			r->end = WALK_NOT_COPIED;
			break;
		}
		/* An older heap of a thread's arena ends in a header of size 0; what is left of its top before that is no block. */
		if (!(next & ~(uint64_t)FLAGS) && chunk + size + 16 == end) {
			r->end = WALK_FENCEPOST;
			break;
		}
		if (next & PREV_INUSE) {
			if (!heap_add_block(h, chunk + 16, size - 8)) {
				r->end = WALK_NO_MEMORY;
				break;
			}
		} else if (torn || (heap_word(h, chunk + size, &before) && before == size)) {
			r->free_bytes += size;
		} else { /* a free chunk's size stands again before the next one */
			r->end = WALK_CORRUPT;
			break;
		}
		expected = size;
		chunk += size;
		header = next;
	}
	r->stopped_at = chunk;
	r->blocks = h->n_blocks - first_block;
	/* The last block's usable bytes reach 8 bytes into the chunk behind it. */
	if (chunk > first && !heap_add_area(h, first, chunk + 8, first_block, 0))
		r->end = WALK_NO_MEMORY;
}

enum { A_CHAIN = 3 }; /* so many chunks do not follow each other by chance */

/* Whether a walk from `chunk` ends exactly at `end` or at a fencepost, after one chunk at least; adds nothing.
 * `failed` has a bit for each granule from `from` on: a walk that comes where an earlier one failed fails too. *chunks gets how many it met. */
static int walks_through(struct heap *h, uint64_t chunk, uint64_t end, uint64_t from, uint8_t *failed, uint64_t *chunks)
{
	uint64_t first = chunk, header, next, before;
	*chunks = 0;
	while (chunk < end) {
		uint64_t granule = (chunk - from) >> 4;
		if (failed[granule >> 3] & 1 << (granule & 7))
			return 0;
		failed[granule >> 3] |= (uint8_t)(1 << (granule & 7));
		if (!heap_word(h, chunk + 8, &header))
			return 0;
		uint64_t size = header & ~(uint64_t)FLAGS;
		if (size == FENCE)
			return chunk > first && heap_word(h, chunk + 24, &header) && (header & ~(uint64_t)FLAGS) <= FENCE;
		if (size < MINSIZE || size % ALIGN || header & IS_MMAPPED || size > end - chunk)
			return 0;
		/* A free chunk's size stands again before the next one. */
		if (!heap_word(h, chunk + size + 8, &next) || (!(next & PREV_INUSE) && (!heap_word(h, chunk + size, &before) || before != size)))
			return 0;
		chunk += size;
		++*chunks;
	}
	return chunk == end && chunk > first;
}

/* The first address from `from` on where the main arena goes on behind memory that somebody else took by sbrk: `end` where nothing before it
 * looks like chunks, as where the last one was joined with the top; 0 where some do, but no walk leads to the end.
 * What failed is remembered for a later call from farther on: many calls cost no more than one. */
uint64_t leakline_heap_resume(struct heap *h, uint64_t from, uint64_t end)
{
	uint64_t first = (from + 15) & ~15ull;
	if (first >= end)
		return 0;
	if (!h->failed || h->failed_end != end || first < h->failed_from) {
		free(h->failed);
		h->failed = calloc(((end - first) >> 7) + 1, 1);
		h->failed_from = first;
		h->failed_end = end;
	}
	if (!h->failed)
		return 0;
	uint64_t longest = 0, chunks;
	for (uint64_t chunk = heap_copied(h, first, end); chunk < end; chunk = heap_copied(h, chunk + ALIGN, end)) {
		if (walks_through(h, chunk, end, h->failed_from, h->failed, &chunks))
			return chunk;
		if (chunks > longest)
			longest = chunks;
	}
	return longest < A_CHAIN ? end : 0;
}

/* Whether an mmapped chunk's header lies `offset` bytes into the mapping at `page`; *total gets the mapping's size. */
static int mmapped_header(struct heap *h, uint64_t page, uint64_t offset, uint64_t end, uint64_t page_size, uint64_t *total)
{
	uint64_t before, header;
	if (!heap_word(h, page + offset, &before) || !heap_word(h, page + offset + 8, &header))
		return 0;
	uint64_t size = header & ~(uint64_t)FLAGS;
	/* Since 2.42 or 2.43 prev_size says in its lowest bit whether the pages are huge ones. */
	if ((before & ~1ull) != offset || (header & FLAGS) != IS_MMAPPED || size < MINSIZE || size > end - page - offset)
		return 0;
	*total = offset + size + heap_mmapped_tail(before, header);
	return *total % page_size == 0 && *total <= end - page;
}

/* The mmapped chunk whose mapping begins at `page`, or 0; *total gets the mapping's size.
 * posix_memalign moves the header up and leaves the old one where it was: the new one tells by prev_size how far it lies from the
 * mapping's start, and both must end together. An alignment of a page or more puts it at the end of a page. */
static uint64_t mmapped_chunk_at(struct heap *h, uint64_t page, uint64_t end, uint64_t page_size, uint64_t *total)
{
	uint64_t moved;
	if (!mmapped_header(h, page, 0, end, page_size, total))
		return 0;
	for (uint64_t offset = ALIGN; offset + MINSIZE <= *total;) {
		if (mmapped_header(h, page, offset, end, page_size, &moved) && moved == *total)
			return page + offset;
		offset += offset < page_size - ALIGN ? ALIGN : page_size;
		/* Whole pages further, to one that was copied: the mapping may have terabytes that were not. */
		uint64_t at = page + offset, gap = heap_copied(h, at, page + *total) - at;
		offset += (gap + page_size - 1) & ~(page_size - 1);
	}
	return page;
}

/* Add the mmapped chunks of the mapping [start, end); `found` gets up to `room` ranges. Returns their number, -1 out of memory. */
int64_t leakline_heap_mmapped(struct heap *h, uint64_t start, uint64_t end, uint64_t page_size, struct range *found, size_t room)
{
	int64_t count = 0;
	uint64_t page = start;
	while (page < end && (size_t)count < room) {
		page = (heap_copied(h, page, end) + page_size - 1) & ~(page_size - 1);
		uint64_t total, chunk = mmapped_chunk_at(h, page, end, page_size, &total), before, header;
		if (!chunk || !heap_word(h, chunk, &before) || !heap_word(h, chunk + 8, &header)) {
			page += page_size;
			continue;
		}
		uint64_t first_block = h->n_blocks;
		if (!heap_add_block(h, chunk + 16, heap_usable(before, header)) || !heap_add_area(h, chunk, page + total, first_block, 1))
			return -1;
		found[count++] = (struct range){page, page + total};
		page += total;
	}
	return count;
}

/* Follow a singly linked free list and return its length, or -1 where it leaves the blocks, meets a FREE one or outgrows `limit`.
 * `head` is a list entry; a block's address is entry + bias (fastbins link chunks, tcaches what malloc returned).
 * From glibc 2.32 on links are stored as link ^ (place >> 12) ("safe-linking"). With `chunk_size`, every member must have it.
 * With `take`, the blocks become FREE; without, it costs patience. */
static int64_t free_list(struct heap *h, uint64_t head, uint64_t bias, int mangled, uint64_t chunk_size, uint64_t limit, int take)
{
	int64_t count = 0;
	for (uint64_t entry = head; entry;) {
		int interior;
		uint64_t address = entry + bias, link;
		if ((uint64_t)count >= limit || (!take && !h->patience))
			return -1;
		h->patience -= !take;
		int64_t block = heap_find(h, address, &interior);
		if (block < 0 || interior || h->state[block] == FREE || !heap_word(h, address, &link))
			return -1;
		if (chunk_size && heap_block_size(h, (uint64_t)block) != chunk_size - 8)
			return -1;
		if (take) {
			h->state[block] = FREE;
			h->freed += heap_block_size(h, (uint64_t)block);
		}
		entry = mangled ? link ^ (address >> 12) : link;
		count++;
	}
	return count;
}

/* Take the blocks of a fastbin out, whose chunks all have one size. Returns how many, or -1 for a broken list. */
int64_t leakline_heap_fastbin(struct heap *h, uint64_t head, uint64_t chunk_size, int mangled)
{
	return free_list(h, head, 16, mangled, chunk_size, h->n_blocks, 1);
}

struct tcache_layout { /* struct tcache_perthread_struct, which differs by version */
	uint32_t chunk_size;
	uint32_t bins;
	uint32_t small_bins;    /* bins whose chunks all have the size 32 + 16 * bin */
	uint32_t count_bytes;   /* 1 up to 2.29, then 2 */
	uint32_t counts_entries; /* 1: the count is the length of the list; 0 (2.42): of what may still be added */
	uint32_t entries_offset;
	uint32_t mangled;
};

enum { MOST_BROKEN = 4 };
enum tcache_state { NO_TCACHE, WHOLE, DAMAGED };

/* Whether the block is a thread's tcache: every bin's list must be whole, of its size, and as long as its count says.
 * One bin may be off by one: the thread may have been stopped between storing the entry and counting it.
 * Where links are mangled no other block has a whole list by chance: with a few bins broken, as by one word of counts, it is still a
 * tcache, a damaged one. */
static enum tcache_state tcache_at(struct heap *h, uint64_t block, const struct tcache_layout *layout, int take)
{
	uint64_t available;
	int64_t held = 0;
	int off_by_one = 0, broken = 0;
	const uint8_t *bytes = heap_bytes(h, h->address[block], &available);
	if (!bytes || available < layout->entries_offset + 8ull * layout->bins)
		return NO_TCACHE;
	for (uint32_t bin = 0; bin < layout->bins; bin++) {
		uint16_t count = bytes[bin];
		uint64_t head, chunk_size = bin < layout->small_bins ? 32 + 16ull * bin : 0;
		if (layout->count_bytes == 2)
			memcpy(&count, bytes + 2ull * bin, 2);
		memcpy(&head, bytes + layout->entries_offset + 8ull * bin, 8);
		uint64_t limit = layout->counts_entries ? count + 1ull : UINT16_MAX;
		int64_t length = free_list(h, head, 0, (int)layout->mangled, chunk_size, take ? h->n_blocks : limit, 0);
		if (take) {
			if (length > 0)
				free_list(h, head, 0, (int)layout->mangled, chunk_size, h->n_blocks, 1);
			continue;
		}
		int differs = length >= 0 && layout->counts_entries && length != count;
		if (length < 0 || (differs && (off_by_one || length + 1 < count))) {
			if (!layout->mangled || broken++ == MOST_BROKEN)
				return NO_TCACHE;
			continue;
		}
		off_by_one |= differs;
		held += length;
	}
	if (held <= off_by_one)
		return NO_TCACHE;
	return broken ? DAMAGED : WHOLE;
}

/* Find the tcaches among the blocks by their shape and take out what they hold; *damaged gets the number of those with a broken list, `rests`
 * where each of the first `room` has bytes behind its last list: malloc never writes them, and what was there before stays. Returns the number of tcaches, or -1 where so many blocks look like one that telling them apart would take too long. */
int64_t leakline_heap_tcaches(struct heap *h, const struct tcache_layout *layout, uint64_t *damaged, struct range *rests, size_t room)
{
	int64_t count = 0;
	*damaged = 0;
	h->patience = 8 * h->n_blocks + (1 << 20);
	for (uint64_t block = 0; block < h->n_blocks && h->patience; block++) {
		/* Most are too near to the next one: no need to read their headers. */
		if (block + 1 < h->n_blocks && h->address[block + 1] - h->address[block] < layout->chunk_size)
			continue;
		/* malloc leaves no rest of 16 bytes but gives them along; and in 2.43 tcache_init may round its size up twice. */
		uint64_t chunk_size = heap_block_size(h, block) + 8;
		if (h->state[block] == FREE || chunk_size < layout->chunk_size || chunk_size > layout->chunk_size + 2 * ALIGN)
			continue;
		enum tcache_state state = tcache_at(h, block, layout, 0);
		if (state == NO_TCACHE)
			continue;
		tcache_at(h, block, layout, 1);
		*damaged += state == DAMAGED;
		if ((size_t)count < room)
			rests[count] = (struct range){h->address[block] + layout->entries_offset + 8ull * layout->bins,
						      h->address[block] + chunk_size - 8};
		count++;
	}
	return h->patience ? count : -1;
}

/* Usable bytes of all that tcaches and fastbins hold. */
uint64_t leakline_heap_freed(const struct heap *h)
{
	return h->freed;
}
