/* The copied address space and the index from addresses to blocks. */
#include "heap.h"

#include <stdlib.h>

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
	free(h->stack);
	free(h->failed);
	free(h);
}

const uint8_t *heap_bytes_elsewhere(struct heap *h, uint64_t address, uint64_t *available)
{
	size_t low = 0, high = h->n_segments;
	while (high - low > 1) {
		size_t middle = low + (high - low) / 2;
		if (h->segments[middle].start <= address)
			low = middle;
		else
			high = middle;
	}
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

int heap_add_block(struct heap *h, uint64_t address, uint64_t size)
{
	if (h->n_blocks == h->room) {
		uint64_t room = h->room ? h->room * 2 : 1024;
		if (room >= UINT32_MAX) {
			h->out_of_memory = 1;
			return 0;
		}
		uint64_t *addresses = realloc(h->address, room * sizeof *addresses);
		if (addresses)
			h->address = addresses;
		uint8_t *states = realloc(h->state, room);
		if (states)
			h->state = states;
		if (!addresses || !states) {
			h->out_of_memory = 1;
			return 0;
		}
		h->room = room;
	}
	h->address[h->n_blocks] = address;
	h->state[h->n_blocks++] = UNREACHED;
	h->bytes += size;
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

/* Build the index once all areas are walked. Returns 0, or -1 out of memory, or -2 if areas overlap. */
int leakline_heap_index(struct heap *h)
{
	if (h->out_of_memory)
		return -1;
	if (h->n_areas)
		qsort(h->areas, h->n_areas, sizeof *h->areas, by_start);
	for (size_t i = 0; i < h->n_areas; i++) {
		struct area *a = &h->areas[i];
		if (i && h->areas[i - 1].end > a->start)
			return -2;
		if (a->blocks <= 1)
			continue;
		uint64_t words = ((a->end - a->start) >> 10) + 1;
		a->starts = calloc(words, sizeof *a->starts);
		a->rank = malloc(words * sizeof *a->rank);
		if (!a->starts || !a->rank)
			return -1;
		for (uint64_t b = a->first_block; b < a->first_block + a->blocks; b++) {
			uint64_t granule = (h->address[b] - a->start) >> 4;
			a->starts[granule >> 6] |= 1ull << (granule & 63);
		}
		uint32_t count = 0;
		for (uint64_t w = 0; w < words; w++) {
			a->rank[w] = count;
			count += (uint32_t)__builtin_popcountll(a->starts[w]);
		}
	}
	h->leader = malloc((h->n_blocks ? h->n_blocks : 1) * sizeof *h->leader);
	return h->leader ? 0 : -1;
}
