/*
 * All memory of the agent: one reservation without access, opened piece by piece.
 *
 * Memory that cannot be written counts neither for RLIMIT_DATA nor for the commit limit (mm/mmap.c, is_data_mapping and
 * accountable_mapping), so that only what is in use does. The shadow is one array for all of the user's address space (47 bits).
 */
#define _GNU_SOURCE
#include "agent.h"
#include "follow.h"
#include "hints.h"
#include "syscalls.h"
#include "tree.h"
#include "../unwind/unwind.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>

#define SHADOW_BYTES (1ull << 45)
#define STEPS_BYTES (1ull << (47 - SHADOW_STEP_SHIFT))
#define GUARD (1ull << 20)

struct tables tables;
uint64_t reserved_bytes;

/* The next piece of the reservation, opened up to `open` bytes, with a gap behind it. */
static void *carve(uint64_t *at, uint64_t size, uint64_t open)
{
	void *start = (void *)*at;
	*at += ((size + 4095) & ~4095ull) + GUARD;
	return open && !make_accessible(start, open) ? NULL : start;
}

int make_accessible(void *start, size_t size)
{
	return syscall_3(SYS_mprotect, (long)start, (long)((size + 4095) & ~4095ul), PROT_READ | PROT_WRITE) == 0;
}

#define SIGNATURE_ROOM 32ull /* bytes a site: most reservations are never used up */
#define GROWTH (256u << 10) /* bytes of a table opened at a time */

/* Open a table for so many bytes, of which `open` are. */
int room_for(void *table, uint64_t *open, uint64_t bytes)
{
	while (*open < bytes) {
		if (!make_accessible((uint8_t *)table + *open, GROWTH))
			return 0;
		*open += GROWTH;
	}
	return 1;
}

struct room { /* for how much there is */
	uint64_t shadow_bytes, most_blocks, most_sites, most_frames, tree_bytes;
};

static uint64_t bytes_of(const struct room *room)
{
	return room->shadow_bytes + room->most_blocks * (sizeof(struct slot) + 1) + room->most_sites * (sizeof *tables.sites + 32) + room->most_frames * 8 +
	       room->most_sites * (sizeof *tables.signatures_of + SIGNATURE_ROOM) +
	       2 * room->tree_bytes + STEPS_BYTES + HINTS_BYTES + RULES_BYTES + FULL_RULES_BYTES + MOST_MODULES * sizeof *tables.modules +
	       MOST_UNLOADED * sizeof *tables.unloaded + NAMES_BYTES +
	       MOST_THREADS * sizeof *tables.threads + OWN_STACK + 27 * GUARD;
}

static int carve_tables(uint64_t at, const struct room *room)
{
	if (room->shadow_bytes)
		tables.shadow = carve(&at, room->shadow_bytes, 0);
	if (room->most_blocks) {
		tables.blocks = carve(&at, room->most_blocks * sizeof *tables.blocks, 0);
		tables.block_tags = carve(&at, room->most_blocks, 0);
	}
	tables.most_blocks = room->most_blocks;
	tables.most_sites = room->most_sites;
	tables.most_frames = room->most_frames;
	tables.sites = carve(&at, room->most_sites * sizeof *tables.sites, 0);
	tables.frames = carve(&at, room->most_frames * sizeof *tables.frames, 0);
	tables.indices = carve(&at, room->most_sites * 32, 0);
	tables.modules = carve(&at, MOST_MODULES * sizeof *tables.modules, MOST_MODULES * sizeof *tables.modules);
	tables.unloaded = carve(&at, MOST_UNLOADED * sizeof *tables.unloaded, MOST_UNLOADED * sizeof *tables.unloaded);
	tables.names = carve(&at, NAMES_BYTES, NAMES_BYTES);
	tables.shadow_steps = carve(&at, STEPS_BYTES, STEPS_BYTES);
	tables.threads = carve(&at, MOST_THREADS * sizeof *tables.threads, MOST_THREADS * sizeof *tables.threads);
	tables.signatures_bytes = room->most_sites * SIGNATURE_ROOM;
	tables.signatures = carve(&at, tables.signatures_bytes, 0);
	tables.signatures_of = carve(&at, room->most_sites * sizeof *tables.signatures_of, 0);
	tables.tree = carve(&at, room->tree_bytes, TREE_START);
	tables.branches = carve(&at, room->tree_bytes, 0);
	tables.tree_bytes = room->tree_bytes;
	tables.hints = carve(&at, HINTS_BYTES, HINTS_BYTES);
	tables.rules = carve(&at, RULES_BYTES, RULES_BYTES);
	tables.full_rules = carve(&at, FULL_RULES_BYTES, FULL_RULES_BYTES);
	tables.stack = carve(&at, OWN_STACK, OWN_STACK);
	return tables.modules && tables.unloaded && tables.names && tables.shadow_steps && tables.threads && tables.tree && tables.hints &&
	       tables.rules && tables.full_rules && tables.stack;
}

static int reserve(const struct room *room)
{
	struct agent_state *state = &leakline_agent_state;
	uint64_t size = bytes_of(room);
	long start = syscall_6(SYS_mmap, 0, (long)size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (start < 0 && start > -4096)
		return 0;
	syscall_3(SYS_madvise, start, (long)size, MADV_DONTDUMP);
	syscall_3(SYS_madvise, start, (long)size, MADV_NOHUGEPAGE); /* a huge page for the first block in each 8 MiB of heap */
	if (!carve_tables((uint64_t)start, room)) {
		syscall_3(SYS_munmap, start, (long)size, 0);
		memset(&tables, 0, sizeof tables);
		return 0;
	}
	reserved_bytes = size;
	state->shadow = (uint64_t)tables.shadow;
	state->sites = (uint64_t)tables.sites;
	state->frames = (uint64_t)tables.frames;
	state->threads = (uint64_t)tables.threads;
	state->unloaded = (uint64_t)tables.unloaded;
	state->modules = (uint64_t)tables.modules;
	state->names = (uint64_t)tables.names;
	state->names_size = 1;
	state->own[0] = (struct agent_range){(uint64_t)start, (uint64_t)start + size};
	state->n_own = 1;
	return 1;
}

/* As much as the kernel allows, but for a shadow that is not wanted. Returns 0 where it refuses even the least. */
int reserve_memory(int with_shadow)
{
	static const struct room rooms[] = {
		{SHADOW_BYTES, 0, 1ull << 24, UINT32_MAX, 1ull << 34},
		{0, 1ull << 28, 1ull << 24, UINT32_MAX, 1ull << 32},
		{0, 1ull << 22, 1ull << 18, 1ull << 23, 1ull << 26},
		{0, 1ull << 18, 1ull << 16, 1ull << 20, 1ull << 23},
	};
	for (size_t i = with_shadow ? 0 : 1; i < sizeof rooms / sizeof *rooms; i++)
		if (reserve(&rooms[i]))
			return 1;
	return 0;
}

/* Ask the kernel, for addresses that only doubtful call frame information names. */
int may_read(uint64_t address, size_t size)
{
	uint8_t copy[64];
	struct iovec local = {copy, size}, remote = {(void *)address, size};
	if (size > sizeof copy)
		return 0;
	long pid = syscall_0(SYS_getpid);
	long done = syscall_6(SYS_process_vm_readv, pid, (long)&local, 1, (long)&remote, 1, 0);
	return done == (long)size;
}
