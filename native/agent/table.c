/*
 * Live blocks, where there is no shadow of the address space: because the kernel refuses to reserve one, or because the allocator is not
 * glibc's, so that nobody can tell from outside which blocks are free. Here free(3) counts too.
 *
 * Only the thread to which a block belongs writes its slot: it needs no lock, and a signal handler may allocate at any point. A block lies in
 * one of the slots of its hash's group. Where those are taken, another table, twice as large, is put behind the ones that there are; a slot
 * is looked for in all of them.
 */
#include "agent.h"

#include <errno.h>
#include <string.h>

#define GROUP 16
#define FIRST_SLOTS (1ull << 14)

static struct slot *level_at(uint32_t level)
{
	return tables.blocks + FIRST_SLOTS * ((1ull << level) - 1);
}

static struct slot *group_of(uint64_t address, uint32_t level)
{
	uint64_t hash = (address >> 4) * 0x9e3779b97f4a7c15ull >> 20;
	return level_at(level) + hash % ((FIRST_SLOTS << level) / GROUP) * GROUP;
}

/* Open one more; where two threads do so at once, it is the same one. Returns 0 where there is no room. */
static int add_level(uint32_t level)
{
	static const char why[] = "no room for more live blocks: some have no record";
	uint64_t slots = FIRST_SLOTS << level;
	if (level_at(level) + slots > tables.blocks + tables.most_blocks || !make_accessible(level_at(level), slots * sizeof(struct slot))) {
		if (!leakline_agent_state.why_off[0])
			memcpy(leakline_agent_state.why_off, why, sizeof why);
		return 0;
	}
	__atomic_compare_exchange_n(&leakline_agent_state.table_levels, &level, level + 1, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
	return 1;
}

static struct slot *find_slot(uint64_t address)
{
	for (uint32_t level = leakline_agent_state.table_levels; level--;) {
		struct slot *group = group_of(address, level);
		for (int i = 0; i < GROUP; i++)
			if (__atomic_load_n(&group[i].address, __ATOMIC_RELAXED) == address)
				return &group[i];
	}
	return NULL;
}

static struct slot *take_slot(uint64_t address, uint32_t level)
{
	struct slot *group = group_of(address, level);
	for (int i = 0; i < GROUP; i++) {
		uint64_t nobody = 0;
		if (!__atomic_load_n(&group[i].address, __ATOMIC_RELAXED) &&
		    __atomic_compare_exchange_n(&group[i].address, &nobody, address, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
			return &group[i];
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
