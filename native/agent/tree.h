/* Known stacks, as a tree of what a walk reads. */
#ifndef LEAKLINE_TREE_H
#define LEAKLINE_TREE_H

#include "../unwind/unwind.h"

/* What a walk starts from. */
struct entered {
	const uint64_t *sp; /* where the return address lies */
	uint64_t rbp, rbx, r12;
};

#define TREE_START (256u << 10) /* bytes that are open from the beginning */

uint32_t find_stack(const struct entered *at);
int may_remember(const struct trace *t);
uint32_t remember_stack(const struct trace *t, const struct entered *at, uint32_t site);
uint32_t find_by_key(const uint64_t *sp);
int remember_by_key(const struct trace *t, const struct entered *at, uint32_t site);
void use_keys(uint64_t caller, int has_keys);
int has_keys(uint64_t caller);

#endif
