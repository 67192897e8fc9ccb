/* Stacks that were walked before, found again by their innermost return addresses and compared word by word. */
#ifndef LEAKLINE_MEMO_H
#define LEAKLINE_MEMO_H

#include "../unwind/unwind.h"

struct memo {
	uint32_t sequence; /* odd while it is written */
	uint32_t site;
	uint64_t key;
	uint32_t n_words, dependencies;
	uint32_t steps[MOST_WORDS];
	uint64_t words[MOST_WORDS];
	uint64_t rbp, rbx, r12; /* relative to the stack pointer */
	uint64_t sp;		/* where ON_SP */
};

/* For a return address: which words above it tell its stacks apart, in words from the stack pointer. Learned where keys were the same. */
#define HINT_WORDS 10
struct hint {
	uint64_t tag;
	uint16_t n;
	uint16_t by_depth; /* no word on the page does: take the stack pointer itself */
	uint16_t offsets[HINT_WORDS];
};

#define MEMO_SET_BITS 11
#define MEMO_WAYS 4
#define MEMO_BYTES (sizeof(struct memo) * MEMO_WAYS << MEMO_SET_BITS)
#define HINT_BITS 12
#define HINTS_BYTES (sizeof(struct hint) << HINT_BITS)

#endif
