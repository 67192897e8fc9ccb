/*
 * Counters per thread, in a table that outlives the threads: a new thread goes on where an ended one stopped, so that ten thousand
 * threads one after the other take no more memory than one, and nothing has to run when a thread ends.
 */
#include "follow.h"
#include "syscalls.h"

__thread struct thread *this_thread;
static uint32_t n_threads;    /* places that were ever taken */
static uint32_t skip_reclaim; /* so many more threads share the first place, all others being taken by live ones */

static int is_gone(long pid, uint32_t tid)
{
	return syscall_3(SYS_tgkill, pid, tid, 0) == -3; /* ESRCH */
}

/* Take the place of a thread that has ended; the search begins where the last one found something. */
static struct thread *reclaim(uint32_t tid)
{
	static uint32_t next = 1;
	long pid = syscall_0(SYS_getpid);
	for (uint32_t tried = 1; tried < MOST_THREADS; tried++) {
		uint32_t at = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED) % (MOST_THREADS - 1) + 1;
		struct thread *t = &tables.threads[at];
		uint32_t was = __atomic_load_n(&t->tid, __ATOMIC_RELAXED);
		if (is_gone(pid, was) && __atomic_compare_exchange_n(&t->tid, &was, tid, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
			return t;
	}
	__atomic_store_n(&skip_reclaim, MOST_THREADS, __ATOMIC_RELAXED);
	return NULL;
}

/* Place 0 is shared, and counts only roughly: by threads for which there is none. */
struct thread *adopt_thread(void)
{
	uint32_t tid = (uint32_t)syscall_0(SYS_gettid);
	struct thread *t = NULL;
	uint32_t at = __atomic_load_n(&n_threads, __ATOMIC_RELAXED) < MOST_THREADS - 1 ? __atomic_add_fetch(&n_threads, 1, __ATOMIC_RELAXED)
										      : MOST_THREADS;
	if (at < MOST_THREADS) {
		t = &tables.threads[at];
		__atomic_store_n(&t->tid, tid, __ATOMIC_RELEASE);
	} else if (__atomic_load_n(&skip_reclaim, __ATOMIC_RELAXED)) {
		__atomic_sub_fetch(&skip_reclaim, 1, __ATOMIC_RELAXED);
	} else {
		t = reclaim(tid);
	}
	this_thread = t ? t : &tables.threads[0];
	start_to_count(this_thread);
	return this_thread;
}

/* In the child of a fork: the others do not exist there. Their counts stay in the sums, as their blocks stay in the heap. */
void forget_other_threads(void)
{
	for (uint32_t at = 1; at < MOST_THREADS; at++)
		if (tables.threads[at].tid && &tables.threads[at] != this_thread)
			tables.threads[at].tid = UINT32_MAX; /* above /proc/sys/kernel/pid_max: no thread */
	if (this_thread && this_thread != &tables.threads[0])
		this_thread->tid = (uint32_t)syscall_0(SYS_gettid);
	skip_reclaim = 0;
}

void sum_counters(void)
{
	uint64_t allocations = 0, misses = 0, truncated = 0;
	uint32_t most = __atomic_load_n(&n_threads, __ATOMIC_RELAXED);
	for (uint32_t at = 0; at <= most && at < MOST_THREADS; at++) {
		allocations += __atomic_load_n(&tables.threads[at].allocations, __ATOMIC_RELAXED);
		misses += __atomic_load_n(&tables.threads[at].misses, __ATOMIC_RELAXED);
		truncated += __atomic_load_n(&tables.threads[at].truncated, __ATOMIC_RELAXED);
	}
	leakline_agent_state.allocations = allocations;
	leakline_agent_state.memo_misses = misses;
	leakline_agent_state.memo_hits = allocations - misses;
	leakline_agent_state.truncated = truncated;
}
