/* The shadow is opened in steps, each when a block first lies in its part of the address space. */
#include "agent.h"

/* Of the shadow; the page behind a step is opened with it, for the size of a block that is the last in its part. */
#define STEP_BYTES ((1ull << SHADOW_STEP_SHIFT) / 16 * sizeof(uint32_t))
#define PAGE 4096

static int open_shadow_step(uint64_t address)
{
	uint64_t step = address >> SHADOW_STEP_SHIFT;
	if (address >> 47 || tables.shadow_steps[step] == STEP_REFUSED)
		return 0;
	if (!make_accessible((uint8_t *)tables.shadow + step * STEP_BYTES, STEP_BYTES + PAGE)) {
		static const char why[] = "a limit on memory: some blocks have no record";
		tables.shadow_steps[step] = STEP_REFUSED;
		__builtin_memcpy(leakline_agent_state.why_off, why, sizeof why);
		return 0;
	}
	if (__atomic_exchange_n(&tables.shadow_steps[step], STEP_OPEN, __ATOMIC_ACQ_REL) != STEP_OPEN)
		__atomic_add_fetch(&leakline_agent_state.shadow_enabled, STEP_BYTES, __ATOMIC_RELAXED);
	return 1;
}

int note_block_elsewhere(uint64_t address, uint64_t pair)
{
	if (tables.blocks)
		return put_block(address, pair);
	if (!open_shadow_step(address))
		return 0;
	__builtin_memcpy(tables.shadow + (address >> 4), &pair, 8);
	return 1;
}
