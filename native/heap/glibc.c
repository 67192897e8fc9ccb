/* glibc's chunks: malloc/malloc.c and malloc/arena.c of 2.28 to 2.42, x86-64. */
#include "heap.h"

#include <string.h>

enum { PREV_INUSE = 1, IS_MMAPPED = 2, FLAGS = 7, ALIGN = 16, MINSIZE = 32, FENCE = 16 };

/* Add the chunks in use from `first` up to `end` (the arena's top chunk, or the end of an older heap of an arena).
 * A chunk is in use when the next one says so; what tcaches and fastbins hold looks in use and is taken out later. */
void leakline_heap_walk(struct heap *h, uint64_t first, uint64_t end, struct walk_result *r)
{
	uint64_t chunk = first, first_block = h->n_blocks, header, next;
	*r = (struct walk_result){.end = WALK_REACHED_END};
	while (chunk < end) {
		if (!heap_word(h, chunk + 8, &header)) {
			r->end = WALK_NOT_COPIED;
			break;
		}
		uint64_t size = header & ~(uint64_t)FLAGS;
		if (size == FENCE) {
			r->end = WALK_FENCEPOST;
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
		if (next & PREV_INUSE) {
			if (!heap_add_block(h, chunk + 16)) {
				r->end = WALK_NO_MEMORY;
				break;
			}
		} else {
			r->free_bytes += size;
		}
		chunk += size;
	}
	r->stopped_at = chunk;
	r->blocks = h->n_blocks - first_block;
	/* The last block's usable bytes reach 8 bytes into the chunk behind it. */
	if (chunk > first && !heap_add_area(h, first, chunk + 8, first_block))
		r->end = WALK_NO_MEMORY;
}

/* Whether a walk from `first` ends exactly at `end` or at a fencepost, after one chunk at least; adds nothing. */
static int walks_through(struct heap *h, uint64_t first, uint64_t end)
{
	uint64_t chunk = first, header;
	while (chunk < end) {
		if (!heap_word(h, chunk + 8, &header))
			return 0;
		uint64_t size = header & ~(uint64_t)FLAGS;
		if (size == FENCE)
			return chunk > first && heap_word(h, chunk + 24, &header) && (header & ~(uint64_t)FLAGS) <= FENCE;
		if (size < MINSIZE || size % ALIGN || header & IS_MMAPPED || size > end - chunk)
			return 0;
		chunk += size;
	}
	return chunk == end && chunk > first;
}

/* The first address from `from` on where the main arena goes on behind memory that somebody else took by sbrk; 0 if none. */
uint64_t leakline_heap_resume(struct heap *h, uint64_t from, uint64_t end)
{
	for (uint64_t chunk = (from + 15) & ~15ull; chunk < end; chunk += ALIGN)
		if (walks_through(h, chunk, end))
			return chunk;
	return 0;
}

/* The start of an mmapped chunk whose mapping begins at `page`, or 0.
 * posix_memalign moves the header up: prev_size then tells how far it lies from its mapping's start. */
static uint64_t mmapped_chunk_at(struct heap *h, uint64_t page, uint64_t end, uint64_t page_size)
{
	uint64_t available;
	const uint8_t *bytes = heap_bytes(h, page, &available);
	if (!bytes)
		return 0;
	for (uint64_t offset = 0; offset < page_size && offset + 16 <= available; offset += ALIGN) {
		uint64_t word[2];
		memcpy(word, bytes + offset, sizeof word);
		if ((word[1] & FLAGS) != IS_MMAPPED || word[0] != offset)
			continue;
		uint64_t total = word[0] + (word[1] & ~(uint64_t)FLAGS);
		if (total >= page_size && total % page_size == 0 && total <= end - page)
			return page + offset;
	}
	return 0;
}

/* Add the mmapped chunks of the mapping [start, end); `found` gets up to `room` ranges. Returns their number, -1 out of memory.
 * Only an alignment over a page puts the header in a later page; then it stands at the end of a page. */
int64_t leakline_heap_mmapped(struct heap *h, uint64_t start, uint64_t end, uint64_t page_size, struct range *found, size_t room)
{
	int64_t count = 0;
	uint64_t page = start;
	while (page < end && (size_t)count < room) {
		uint64_t chunk = mmapped_chunk_at(h, page, end, page_size), mapping = page, header, before;
		if (!chunk && heap_skip(h, &page, page_size))
			continue;
		if (!chunk) {
			uint64_t last = page + page_size - 16;
			if (heap_word(h, last, &before) && heap_word(h, last + 8, &header) && (header & FLAGS) == IS_MMAPPED && before <= last - start &&
			    before % page_size == page_size - 16 && (before + (header & ~(uint64_t)FLAGS)) % page_size == 0 &&
			    (header & ~(uint64_t)FLAGS) <= end - last) {
				chunk = last;
				mapping = last - before;
			}
		}
		if (!chunk || !heap_word(h, chunk + 8, &header)) {
			page += page_size;
			continue;
		}
		uint64_t first_block = h->n_blocks, chunk_end = chunk + (header & ~(uint64_t)FLAGS);
		if (!heap_add_block(h, chunk + 16) || !heap_add_area(h, chunk, chunk_end, first_block))
			return -1;
		found[count++] = (struct range){mapping, chunk_end};
		page = chunk_end;
	}
	return count;
}

/* Follow a singly linked free list and return its length, or -1 where it leaves the blocks, meets one twice or outgrows `limit`.
 * `head` is a list entry; a block's address is entry + bias (fastbins link chunks, tcaches what malloc returned).
 * From glibc 2.32 on links are stored as link ^ (place >> 12) ("safe-linking"). With `chunk_size`, every member must have it.
 * With `take`, the blocks become FREE. */
static int64_t free_list(struct heap *h, uint64_t head, uint64_t bias, int mangled, uint64_t chunk_size, uint64_t limit, int take)
{
	int64_t count = 0;
	for (uint64_t entry = head; entry;) {
		int interior;
		uint64_t address = entry + bias, link;
		int64_t block = (uint64_t)count < limit ? heap_find(h, address, &interior) : -1;
		if (block < 0 || interior || (take && h->state[block] == FREE) || !heap_word(h, address, &link))
			return -1;
		if (chunk_size && heap_block_size(h, (uint64_t)block) != chunk_size - 8)
			return -1;
		if (take)
			h->state[block] = FREE;
		entry = mangled ? link ^ (address >> 12) : link;
		count++;
	}
	return count;
}

/* Take the blocks of a fastbin out. Returns how many, or -1 for a broken list. */
int64_t leakline_heap_fastbin(struct heap *h, uint64_t head, int mangled)
{
	return free_list(h, head, 16, mangled, 0, h->n_blocks, 1);
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

/* Whether the block is a thread's tcache: every bin's list must be whole, of its size, and as long as its count says. */
static int tcache_lists(struct heap *h, uint64_t block, const struct tcache_layout *layout, int take)
{
	uint64_t available;
	int64_t total = 0;
	const uint8_t *bytes = heap_bytes(h, h->address[block], &available);
	if (!bytes || available < layout->entries_offset + 8ull * layout->bins)
		return 0;
	for (uint32_t bin = 0; bin < layout->bins; bin++) {
		uint16_t count = bytes[bin];
		uint64_t head;
		if (layout->count_bytes == 2)
			memcpy(&count, bytes + 2ull * bin, 2);
		memcpy(&head, bytes + layout->entries_offset + 8ull * bin, 8);
		uint64_t limit = layout->counts_entries ? count : UINT16_MAX;
		int64_t length = free_list(h, head, 0, (int)layout->mangled, bin < layout->small_bins ? 32 + 16ull * bin : 0, limit, take);
		if (length < 0 || (layout->counts_entries && length != count))
			return 0;
		total += length;
	}
	return total > 0;
}

/* Find the tcaches among the blocks by their shape and take out what they hold. Returns the number of tcaches. */
int64_t leakline_heap_tcaches(struct heap *h, const struct tcache_layout *layout)
{
	int64_t count = 0;
	for (uint64_t block = 0; block < h->n_blocks; block++) {
		if (h->state[block] == FREE || heap_block_size(h, block) != layout->chunk_size - 8)
			continue;
		if (tcache_lists(h, block, layout, 0)) {
			tcache_lists(h, block, layout, 1);
			count++;
		}
	}
	return count;
}
