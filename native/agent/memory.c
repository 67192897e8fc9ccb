/*
 * All memory of the agent: one reservation without access, opened piece by piece.
 *
 * Memory that cannot be written counts neither for RLIMIT_DATA nor for the commit limit (mm/mmap.c, is_data_mapping and
 * accountable_mapping), so that only what is in use does. The shadow is one array for all of the user's address space (47 bits).
 */
#define _GNU_SOURCE
#include "agent.h"
#include "memo.h"
#include "syscalls.h"
#include "../unwind/unwind.h"

#include <sys/mman.h>
#include <sys/uio.h>

#define SHADOW_BYTES (1ull << 45)
#define SITES_BYTES (1ull << 29)
#define FRAMES_BYTES (1ull << 35)
#define INDICES_BYTES (1ull << 29)
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

static int carve_tables(uint64_t at)
{
	tables.shadow = carve(&at, SHADOW_BYTES, 0);
	tables.sites = carve(&at, SITES_BYTES, 0);
	tables.frames = carve(&at, FRAMES_BYTES, 0);
	tables.indices = carve(&at, INDICES_BYTES, 0);
	tables.modules = carve(&at, MOST_MODULES * sizeof *tables.modules, MOST_MODULES * sizeof *tables.modules);
	tables.shadow_steps = carve(&at, 1ull << (47 - SHADOW_STEP_SHIFT), 1ull << (47 - SHADOW_STEP_SHIFT));
	tables.threads = carve(&at, MOST_THREADS * sizeof *tables.threads, MOST_THREADS * sizeof *tables.threads);
	tables.memo = carve(&at, MEMO_BYTES, MEMO_BYTES);
	tables.memo_keys = carve(&at, KEYS_BYTES, KEYS_BYTES);
	tables.hints = carve(&at, HINTS_BYTES, HINTS_BYTES);
	tables.rules = carve(&at, RULES_BYTES, RULES_BYTES);
	tables.full_rules = carve(&at, FULL_RULES_BYTES, FULL_RULES_BYTES);
	tables.stack = carve(&at, OWN_STACK, OWN_STACK);
	return tables.modules && tables.shadow_steps && tables.threads && tables.memo && tables.memo_keys && tables.hints && tables.rules && tables.full_rules &&
	       tables.stack;
}

/* Returns 0 where the kernel refuses. */
int reserve_memory(void)
{
	struct agent_state *state = &leakline_agent_state;
	uint64_t size = SHADOW_BYTES + SITES_BYTES + FRAMES_BYTES + INDICES_BYTES + (1ull << 30);
	long start = syscall_6(SYS_mmap, 0, (long)size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (start < 0 && start > -4096)
		return 0;
	syscall_3(SYS_madvise, start, (long)size, MADV_DONTDUMP);
	syscall_3(SYS_madvise, start, (long)size, MADV_NOHUGEPAGE); /* a huge page for the first block in each 8 MiB of heap */
	if (!carve_tables((uint64_t)start)) {
		syscall_3(SYS_munmap, start, (long)size, 0);
		return 0;
	}
	reserved_bytes = size;
	state->shadow = (uint64_t)tables.shadow;
	state->sites = (uint64_t)tables.sites;
	state->frames = (uint64_t)tables.frames;
	state->threads = (uint64_t)tables.threads;
	state->own[0] = (struct agent_range){(uint64_t)start, (uint64_t)start + size};
	state->n_own = 1;
	return 1;
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
