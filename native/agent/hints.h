/* Which words tell the stacks of a caller apart that is reached by very many ways. */
#ifndef LEAKLINE_HINTS_H
#define LEAKLINE_HINTS_H

#include "../unwind/unwind.h"

/* In words from the stack pointer. Learned where keys were the same. */
#define HINT_WORDS 18
struct hint {
	uint64_t caller;
	uint16_t n;
	uint16_t is_refused; /* they are not all of one shape */
	uint16_t offsets[HINT_WORDS];
};
#define HINT_BITS 12
#define HINTS_BYTES (sizeof(struct hint) << HINT_BITS)

uint64_t key_of(const uint64_t *sp);
int learn(const uint64_t *sp, const uint64_t *differs);
void prefer_keys(const struct trace *t, uint64_t caller);
void refuse_keys(uint64_t caller);
int fits_keys(const struct trace *t, const uint64_t *sp);

#endif
