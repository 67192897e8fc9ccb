/* Records an allocation: its stack is mostly one that was seen before, which costs about as much as the allocation itself. */
#include "follow.h"
#include "hints.h"
#include "syscalls.h"
#include "tree.h"

#include <string.h>

#define MOST_BRANCHES 5 /* on the way through the tree: more than that, and a key is quicker */

#ifdef LEAKLINE_AGENT_SELF_CHECK
EXPORT uint64_t leakline_agent_checked, leakline_agent_guessed, leakline_agent_disagreements;

/* What is remembered must be what a walk with all registers finds, in the tree, by a key, and where it is guessed. */
static void check_against_walk(const struct registers *r, const uint64_t *sp)
{
	struct entered at = {sp, r->rbp, r->rbx, r->r12};
	struct trace t;
	uint32_t in_tree = find_stack(&at), by_key = has_keys(*sp) ? find_by_key(sp) : 0, guessed = follow(this_thread, sp, r->rbp);
	if (guessed == WALK_IT)
		guessed = 0;
	uint32_t site = in_tree ? in_tree : by_key ? by_key : guessed;
	if (!site)
		return;
	walk_fully(&t, r, sp);
	const struct agent_site *s = &tables.sites[site];
	__atomic_add_fetch(&leakline_agent_checked, 1, __ATOMIC_RELAXED);
	__atomic_add_fetch(&leakline_agent_guessed, guessed != 0, __ATOMIC_RELAXED);
	if ((in_tree && by_key && in_tree != by_key) || (guessed && guessed != site) || s->n_frames != t.n_frames || s->flags != t.flags ||
	    memcmp(tables.frames + s->first_frame, t.frames, 8 * t.n_frames))
		__atomic_add_fetch(&leakline_agent_disagreements, 1, __ATOMIC_RELAXED);
}

void print_check(void)
{
	char line[96], *to = line;
	to = put_text(to, "leakline agent: ");
	to = put_number(to, leakline_agent_checked, 10);
	to = put_text(to, " checked, ");
	to = put_number(to, leakline_agent_guessed, 10);
	to = put_text(to, " guessed, ");
	to = put_number(to, leakline_agent_disagreements, 10);
	to = put_text(to, " differ\n");
	syscall_3(SYS_write, 2, (long)line, to - line);
}
#endif

static void remember(const struct trace *trace, const struct entered *at, uint32_t site)
{
	uint64_t caller = *at->sp;
	add_signature(trace, at->sp, at->rbp, site);
	if (has_keys(caller)) {
		if (!fits_keys(trace, at->sp) || !remember_by_key(trace, at, site))
			refuse_keys(caller);
	} else if (remember_stack(trace, at, site) > MOST_BRANCHES) {
		prefer_keys(trace, caller);
	}
}

static uint32_t walk_and_remember(struct thread *self, const struct registers *registers, const uint64_t *sp, int lasting)
{
	struct trace trace;
	walk_stack(&trace, registers, sp);
	self->misses++;
	self->truncated += trace.cut;
	note_span(self, &trace, sp);
	struct entered at = {sp, registers->rbp, registers->rbx, registers->r12};
	uint32_t site = find_site(trace.frames, trace.n_frames, trace.hash, trace.flags);
	int is_kept = lasting && may_remember(&trace);
	if (site && !is_kept)
		return site;
	uint64_t signals;
	lock_records(&signals);
	if (!site)
		site = add_site(trace.frames, trace.n_frames, trace.hash, trace.flags);
	if (site && is_kept)
		remember(&trace, &at, site);
	unlock_records(&signals);
	return site;
}

void leakline_record(void *block, size_t size, const struct registers *registers, const uint64_t *sp)
{
	uint32_t phase = __atomic_load_n(&leakline_agent_state.phase, __ATOMIC_ACQUIRE);
	if (phase != AGENT_RECORDING && phase != AGENT_WAITING)
		return;
	struct thread *self = this_thread ? this_thread : adopt_thread();
	if (modules_may_have_changed)
		refresh_modules();
#ifdef LEAKLINE_AGENT_SELF_CHECK
	check_against_walk(registers, sp);
#endif
	/* The loader allocates when it loads a module: always look at the modules again after that, and remember none of its stacks. */
	int by_loader = is_in_loader(*sp);
	uint32_t site = walk_and_remember(self, registers, sp, !by_loader);
	note_block(block, size, site);
#ifdef LEAKLINE_AGENT_SELF_CHECK
	note_next(self, sp, site);
#endif
	if (following)
		note_next(self, sp, site);
	if (by_loader)
		doubt_modules();
	if ((++self->allocations & 0xffff) == 0 || self->misses < 64)
		sum_counters();
}
