/*
 * Sites: every distinct stack once. Readers need no lock; a new site, and what is remembered of its stack, is added under one, with signals
 * blocked, since a handler that allocates would wait for the thread that it interrupted.
 */
#define _GNU_SOURCE
#include "agent.h"
#include "syscalls.h"

#include <string.h>

#define FIRST_INDEX (1u << 12)
#define DROPPED UINT32_MAX

static uint32_t *index_now; /* power of two of site numbers, 0 for none, at most half of them taken */
static uint64_t index_size;
static uint64_t index_used;
static uint64_t indices_end; /* entries of tables.indices that are used up */
static uint64_t sites_open, frames_open;
static uint32_t lock; /* tid of the holder */

static int same_stack(const struct agent_site *site, const uint64_t *frames, uint32_t n, uint64_t hash, uint16_t flags)
{
	return site->hash_low == (uint32_t)hash && site->hash_high == (uint32_t)(hash >> 32) && site->n_frames == n && site->flags == flags &&
	       !memcmp(tables.frames + site->first_frame, frames, n * sizeof *frames);
}

/* The size lies in front of an index, so that both are read together. */
static uint32_t look_up(const uint32_t *index, const uint64_t *frames, uint32_t n, uint64_t hash, uint16_t flags)
{
	uint64_t mask = index[-1] - 1u;
	for (uint64_t at = hash & mask;; at = (at + 1) & mask) {
		uint32_t site = __atomic_load_n(&index[at], __ATOMIC_ACQUIRE);
		if (!site)
			return 0;
		if (site != DROPPED && same_stack(&tables.sites[site], frames, n, hash, flags))
			return site;
	}
}

static void put(uint32_t *index, uint32_t site, uint64_t hash)
{
	uint64_t mask = index[-1] - 1u, at = hash & mask;
	while (index[at])
		at = (at + 1) & mask;
	__atomic_store_n(&index[at], site, __ATOMIC_RELEASE);
}

/* A new index twice as long. The old one stays: another thread may be reading it. */
static int grow_index(void)
{
	uint64_t size = index_size ? 2 * index_size : FIRST_INDEX;
	uint32_t *index = tables.indices + indices_end + 16;
	if (size > 2ull * tables.most_sites || !make_accessible(tables.indices + indices_end, (size + 1024) * sizeof *index))
		return 0;
	indices_end += size + 1024;
	index[-1] = (uint32_t)size;
	uint64_t used = 0;
	for (uint64_t at = 0; at < index_size; at++) {
		uint32_t site = index_now[at];
		if (!site || site == DROPPED)
			continue;
		put(index, site, tables.sites[site].hash_low | (uint64_t)tables.sites[site].hash_high << 32);
		used++;
	}
	index_size = size;
	index_used = used;
	__atomic_store_n(&index_now, index, __ATOMIC_RELEASE);
	return 1;
}

static uint32_t add(const uint64_t *frames, uint32_t n, uint64_t hash, uint16_t flags)
{
	struct agent_state *state = &leakline_agent_state;
	uint64_t site = state->n_sites ? state->n_sites : 1;
	if ((!index_now || 2 * index_used >= index_size) && !grow_index())
		return 0;
	if (site >= tables.most_sites || state->n_frames + n > tables.most_frames)
		return 0;
	if (!room_for(tables.sites, &sites_open, (site + 1) * sizeof *tables.sites))
		return 0;
	if (!room_for(tables.frames, &frames_open, (state->n_frames + n) * sizeof *frames))
		return 0;
	memcpy(tables.frames + state->n_frames, frames, n * sizeof *frames);
	tables.sites[site] = (struct agent_site){(uint32_t)state->n_frames, (uint16_t)n, flags, (uint32_t)hash, (uint32_t)(hash >> 32)};
	__atomic_store_n(&state->n_frames, state->n_frames + n, __ATOMIC_RELEASE);
	__atomic_store_n(&state->n_sites, site + 1, __ATOMIC_RELEASE);
	index_used++;
	put(index_now, (uint32_t)site, hash);
	return (uint32_t)site;
}

/* Of threads that end, or that a fork left behind, none gives the lock back. */
void lock_records(uint64_t *signals)
{
	uint64_t all = ~0ull;
	uint32_t self = (uint32_t)syscall_0(SYS_gettid), holder = 0;
	syscall_4(SYS_rt_sigprocmask, 0, (long)&all, (long)signals, 8);
	for (uint32_t turn = 1;; turn++) {
		holder = 0;
		if (__atomic_compare_exchange_n(&lock, &holder, self, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
			return;
		if (turn % 64 == 0)
			syscall_0(SYS_sched_yield);
		if (turn % 65536 == 0 && syscall_3(SYS_tgkill, syscall_0(SYS_getpid), holder, 0) == -3) /* ESRCH */
			__atomic_compare_exchange_n(&lock, &holder, 0, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
		__builtin_ia32_pause();
	}
}

void unlock_records(const uint64_t *signals)
{
	__atomic_store_n(&lock, 0, __ATOMIC_RELEASE);
	syscall_4(SYS_rt_sigprocmask, 2, (long)signals, 0, 8); /* SIG_SETMASK */
}

/* The number of a stack; 0 if it is new. */
uint32_t find_site(const uint64_t *frames, uint32_t n, uint64_t hash, uint16_t flags)
{
	const uint32_t *index = __atomic_load_n(&index_now, __ATOMIC_ACQUIRE);
	return index ? look_up(index, frames, n, hash, flags) : 0;
}

/* The same of a new one, under the lock; 0 if there is no room. */
uint32_t add_site(const uint64_t *frames, uint32_t n, uint64_t hash, uint16_t flags)
{
	uint32_t site = find_site(frames, n, hash, flags);
	return site ? site : add(frames, n, hash, flags);
}

/* Whether a stack goes through modules that are gone, and through which, if that is wanted. */
int passes_through(const struct agent_site *site, const struct agent_range *gone, size_t n_gone, uint8_t *are_met)
{
	int passes = 0;
	for (uint32_t i = 0; i < site->n_frames; i++) {
		for (size_t k = 0; k < n_gone; k++) {
			if (!is_in(&gone[k], tables.frames[site->first_frame + i]))
				continue;
			passes = 1;
			if (are_met)
				are_met[k] = 1;
		}
	}
	return passes;
}

/*
 * Sites in modules that are gone stay as they are, but whatever is loaded in the same place gets its own. Says which of the modules were met,
 * and returns from which number on sites are later than that.
 */
uint32_t drop_sites(const struct agent_range *gone, size_t n_gone, uint8_t *are_met)
{
	uint64_t signals;
	lock_records(&signals);
	for (uint64_t at = 0; at < index_size; at++) {
		uint32_t site = index_now[at];
		if (site && site != DROPPED && passes_through(&tables.sites[site], gone, n_gone, are_met))
			__atomic_store_n(&index_now[at], DROPPED, __ATOMIC_RELEASE);
	}
	uint32_t n_sites = (uint32_t)leakline_agent_state.n_sites;
	unlock_records(&signals);
	return n_sites;
}

void reset_records_lock(void)
{
	lock = 0;
}
