/* Which known stack comes after which: a program mostly does again what it did before. */
#ifndef LEAKLINE_FOLLOW_H
#define LEAKLINE_FOLLOW_H

#include "../unwind/unwind.h"

#define WALK_IT UINT32_MAX /* in place of a site */

/* This thread's place, while it follows. */
extern __thread struct thread *following;

uint32_t follow(struct thread *self, const uint64_t *sp, uint64_t rbp);
void start_to_count(struct thread *self);
void decide(struct thread *self);
void note_next(struct thread *self, const uint64_t *sp, uint32_t site);
void note_span(struct thread *self, const struct trace *t, const uint64_t *sp);
void add_signature(const struct trace *t, const uint64_t *sp, uint64_t rbp, uint32_t site);

#define BRANCHINGS 256 /* are counted before it is decided whether to follow */

/* An allocation whose stack is not the first one of its caller. */
static inline void note_branching(struct thread *self)
{
	if (__builtin_expect(++self->branchings >= BRANCHINGS, 0))
		decide(self);
}

#endif
