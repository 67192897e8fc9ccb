/*
 * Live blocks, where there is no shadow of the address space: because the kernel refuses to reserve one, or because the allocator is not
 * glibc's, so that nobody can tell from outside which blocks are free. Here free(3) counts too.
 *
 * Only the thread to which a block belongs writes its slot: it needs no lock, and a signal handler may allocate at any point. A block lies in
 * one of the slots of its hash's group. Where those are taken, another table, twice as large, is put behind the ones that there are; a slot
 * is looked for in all of them.
 */
#include "agent.h"

#include <emmintrin.h>
#include <errno.h>
#include <string.h>

#define GROUP 16
#define FIRST_SLOTS (1ull << 16)

/* A group's slots, and a byte of the hash for each that is taken: all are compared at once, and most slots need not be looked at. */
struct group {
	struct slot *slots;
	uint8_t *tags;
};

static uint64_t level_at(uint32_t level)
{
	return FIRST_SLOTS * ((1ull << level) - 1);
}

static uint64_t hash_of(uint64_t address)
{
	return (address >> 4) * 0x9e3779b97f4a7c15ull >> 20;
}

static uint8_t tag_of(uint64_t hash)
{
	return (uint8_t)(hash >> 36 | 0x80);
}

static struct group group_of(uint64_t hash, uint32_t level)
{
	uint64_t first = level_at(level) + hash % ((FIRST_SLOTS << level) / GROUP) * GROUP;
	return (struct group){tables.blocks + first, tables.block_tags + first};
}

/* Bit i: whether tag i is this one. */
static uint32_t slots_with(const uint8_t *tags, uint8_t tag)
{
	__m128i all = _mm_load_si128((const __m128i *)tags);
	return (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(all, _mm_set1_epi8((char)tag)));
}

/* Open one more; where two threads do so at once, it is the same one. Returns 0 where there is no room. */
static int add_level(uint32_t level)
{
	static const char why[] = "no room for more live blocks: some have no record";
	uint64_t first = level_at(level), slots = FIRST_SLOTS << level;
	if (first + slots > tables.most_blocks || !make_accessible(tables.blocks + first, slots * sizeof(struct slot)) ||
	    !make_accessible(tables.block_tags + first, slots)) {
		if (!leakline_agent_state.why_off[0])
			memcpy(leakline_agent_state.why_off, why, sizeof why);
		return 0;
	}
	__atomic_compare_exchange_n(&leakline_agent_state.table_levels, &level, level + 1, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
	return 1;
}

static struct slot *find_slot(uint64_t address)
{
	uint64_t hash = hash_of(address);
	for (uint32_t level = leakline_agent_state.table_levels; level--;) {
		struct group group = group_of(hash, level);
		for (uint32_t left = slots_with(group.tags, tag_of(hash)); left; left &= left - 1) {
			struct slot *slot = &group.slots[__builtin_ctz(left)];
			if (__atomic_load_n(&slot->address, __ATOMIC_RELAXED) == address)
				return slot;
		}
	}
	return NULL;
}

static uint8_t *tag_at(const struct slot *slot)
{
	return &tables.block_tags[slot - tables.blocks];
}

static struct slot *take_slot(uint64_t address, uint32_t level)
{
	uint64_t hash = hash_of(address);
	struct group group = group_of(hash, level);
	for (uint32_t left = slots_with(group.tags, 0); left; left &= left - 1) {
		struct slot *slot = &group.slots[__builtin_ctz(left)];
		uint64_t nobody = 0; /* or somebody who has not written the tag yet */
		if (__atomic_compare_exchange_n(&slot->address, &nobody, address, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
			__atomic_store_n(tag_at(slot), tag_of(hash), __ATOMIC_RELEASE);
			return slot;
		}
	}
	return NULL;
}

int put_block(uint64_t address, uint64_t pair)
{
	struct slot *slot = find_slot(address);
	for (uint32_t level = leakline_agent_state.table_levels; !slot && level--;)
		slot = take_slot(address, level);
	while (!slot) {
		uint32_t level = leakline_agent_state.table_levels;
		if (!add_level(level))
			return 0;
		slot = take_slot(address, level);
	}
	__atomic_store_n(&slot->pair, pair, __ATOMIC_RELEASE);
	return 1;
}

/* Returns what was known of the block. */
static uint64_t remove_block(void *block)
{
	struct slot *slot = block ? find_slot((uint64_t)block) : NULL;
	if (!slot)
		return 0;
	uint64_t pair = slot->pair;
	slot->pair = 0;
	__atomic_store_n(tag_at(slot), 0, __ATOMIC_RELAXED);
	__atomic_store_n(&slot->address, 0, __ATOMIC_RELEASE);
	return pair;
}

static struct allocator next; /* what the functions below stand before */
static void (*next_free)(void *);

/* Before the block is given back: another thread may have it the moment after. */
static void free_block(void *block)
{
	remove_block(block);
	next_free(block);
}

static void *realloc_block(void *block, size_t size)
{
	uint64_t pair = remove_block(block);
	void *result = next.realloc(block, size);
	if (!result && pair && size)
		put_block((uint64_t)block, pair);
	return result;
}

static void *reallocarray_block(void *block, size_t count, size_t size)
{
	size_t bytes;
	if (__builtin_mul_overflow(count, size, &bytes)) {
		errno = ENOMEM;
		return NULL;
	}
	return realloc_block(block, bytes);
}

void use_table(void)
{
	next = leakline_real;
	next_free = leakline_real_free;
	leakline_real_free = free_block;
	leakline_real.realloc = realloc_block;
	leakline_real.reallocarray = reallocarray_block;
	leakline_agent_state.table = (uint64_t)tables.blocks;
	leakline_agent_state.first_slots = FIRST_SLOTS;
}
