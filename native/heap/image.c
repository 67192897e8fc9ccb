/* The copied address space and the index from addresses to blocks. */
#include "heap.h"

#include <stdlib.h>

enum { FEWEST_BYTES = 32, LEAST_ROOM = 1024 };

uint32_t leakline_heap_abi(void)
{
	return LEAKLINE_HEAP_ABI;
}

struct heap *leakline_heap_new(const struct segment *segments, size_t n)
{
	struct heap *h = calloc(1, sizeof *h);
	if (!h)
		return NULL;
	h->segments = segments;
	h->n_segments = n;
	h->low = UINT64_MAX;
#ifdef __x86_64__
	h->has_popcnt = __builtin_cpu_supports("popcnt");
#endif
	uint64_t copied = 0;
	for (size_t i = 0; i < n; i++)
		copied += segments[i].size;
	/* As many blocks as there can be in so much memory: pages that are never written cost nothing. */
	h->room = LEAST_ROOM + copied / FEWEST_BYTES;
	h->address = malloc(h->room * sizeof *h->address);
	if (!h->address || h->room >= UINT32_MAX)
		h->room = 0;
	return h;
}

void leakline_heap_free(struct heap *h)
{
	if (!h)
		return;
	for (size_t i = 0; i < h->n_areas; i++) {
		free(h->areas[i].starts);
		free(h->areas[i].rank);
	}
	free(h->areas);
	free(h->address);
	free(h->state);
	free(h->leader);
	free(h->stack.blocks);
	free(h->waiting.blocks);
	free(h->failed);
	free(h);
}

/* Index of the last of the segments that starts at the address or before it; 0 if none does. */
size_t heap_segment(const struct segment *segments, size_t n, uint64_t address)
{
	size_t low = 0, high = n;
	while (high - low > 1) {
		size_t middle = low + (high - low) / 2;
		if (segments[middle].start <= address)
			low = middle;
		else
			high = middle;
	}
	return low;
}

const uint8_t *heap_bytes_elsewhere(struct heap *h, uint64_t address, uint64_t *available)
{
	size_t low = heap_segment(h->segments, h->n_segments, address);
	const struct segment *s = &h->segments[low];
	if (address - s->start >= s->size)
		return NULL;
	h->last_segment = low;
	*available = s->size - (address - s->start);
	return s->data + (address - s->start);
}

uint64_t heap_copied(struct heap *h, uint64_t address, uint64_t end)
{
	uint64_t available;
	if (heap_bytes(h, address, &available))
		return address < end ? address : end;
	size_t low = 0, high = h->n_segments;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (h->segments[middle].start <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low < h->n_segments && h->segments[low].start < end ? h->segments[low].start : end;
}

/* A heap that says that its chunks overlap may have more blocks than fit into its memory. */
int heap_make_room(struct heap *h)
{
	uint64_t room = h->room ? h->room * 2 : LEAST_ROOM;
	uint64_t *addresses = room < UINT32_MAX ? realloc(h->address, room * sizeof *addresses) : NULL;
	if (!addresses) {
		h->out_of_memory = 1;
		return 0;
	}
	h->address = addresses;
	h->room = room;
	return 1;
}

int heap_add_area(struct heap *h, uint64_t start, uint64_t end, uint64_t first_block, int mmapped)
{
	if (h->n_areas == h->areas_room) {
		size_t room = h->areas_room ? h->areas_room * 2 : 16;
		struct area *areas = realloc(h->areas, room * sizeof *areas);
		if (!areas) {
			h->out_of_memory = 1;
			return 0;
		}
		h->areas = areas;
		h->areas_room = room;
	}
	h->areas[h->n_areas++] = (struct area){.start = start, .end = end, .first_block = first_block, .blocks = h->n_blocks - first_block, .mmapped = mmapped};
	if (start < h->low)
		h->low = start;
	if (end > h->high)
		h->high = end;
	return 1;
}

static int by_start(const void *a, const void *b)
{
	uint64_t x = ((const struct area *)a)->start, y = ((const struct area *)b)->start;
	return x < y ? -1 : x > y;
}

const struct area *heap_area_elsewhere(struct heap *h, uint64_t address)
{
	size_t low = 0, high = h->n_areas;
	while (high - low > 1) {
		size_t middle = low + (high - low) / 2;
		if (h->areas[middle].start <= address)
			low = middle;
		else
			high = middle;
	}
	const struct area *a = &h->areas[low];
	if (address - a->start >= a->end - a->start)
		return NULL;
	h->last_area = low;
	return a;
}

/* The first block from `block` on that is in another state; the number of blocks where none is. */
uint64_t heap_next_unlike(const struct heap *h, uint64_t block, uint8_t state)
{
	uint64_t same = state * 0x0101010101010101ull, eight;
	while (block < h->n_blocks && h->state[block] == state) {
		while (block + 8 <= h->n_blocks && (memcpy(&eight, h->state + block, 8), eight == same))
			block += 8;
		if (block < h->n_blocks && h->state[block] == state)
			block++;
	}
	return block;
}

/* The bitmap of an area's blocks, and how many are before each of its words. */
static int index_area(struct heap *h, struct area *a)
{
	uint64_t words = ((a->end - a->start) >> 10) + 1, block = a->first_block, last = block + a->blocks;
	a->starts = malloc(words * sizeof *a->starts);
	a->rank = malloc(words * sizeof *a->rank);
	if (!a->starts || !a->rank)
		return 0;
	for (uint64_t word = 0; word < words; word++) {
		uint64_t bits = 0, end = a->start + ((word + 1) << 10);
		a->rank[word] = (uint32_t)(block - a->first_block);
		for (; block < last && h->address[block] < end; block++)
			bits |= 1ull << ((h->address[block] - a->start) >> 4 & 63);
		a->starts[word] = bits;
	}
	return 1;
}

/* Build the index once all areas are walked. Returns 0, or -1 out of memory, or -2 if areas overlap. */
int leakline_heap_index(struct heap *h)
{
	if (h->out_of_memory)
		return -1;
	if (h->n_areas)
		qsort(h->areas, h->n_areas, sizeof *h->areas, by_start);
	for (size_t i = 0; i < h->n_areas; i++) {
		if (i && h->areas[i - 1].end > h->areas[i].start)
			return -2;
		if (h->areas[i].blocks > 1 && !index_area(h, &h->areas[i]))
			return -1;
	}
	_Static_assert(UNREACHED == 0, "calloc makes blocks that are not reached");
	h->state = calloc(h->n_blocks ? h->n_blocks : 1, 1);
	h->leader = malloc((h->n_blocks ? h->n_blocks : 1) * sizeof *h->leader);
	return h->state && h->leader ? 0 : -1;
}
