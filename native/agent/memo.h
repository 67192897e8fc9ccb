/* Stacks that were walked before, found again by their innermost return addresses and compared word by word. */
#ifndef LEAKLINE_MEMO_H
#define LEAKLINE_MEMO_H

#include "../unwind/unwind.h"

struct memo {
	uint32_t sequence; /* odd while it is written */
	uint32_t site;
	uint64_t key;
	uint32_t n_words, dependencies;
	uint64_t rbp, rbx, r12; /* relative to the stack pointer */
	uint64_t sp;		/* where ON_SP */
	uint32_t offsets[MOST_WORDS];
	uint64_t words[MOST_WORDS];
};

struct hint { /* for a return address: where the next ones lie, as it was last seen */
	uint64_t tag;
	uint32_t offsets[KEY_FRAMES];
};

#define MEMO_SET_BITS 10
#define MEMO_WAYS 4
#define MEMO_BYTES (sizeof(struct memo) * MEMO_WAYS << MEMO_SET_BITS)
#define HINT_BITS 12
#define HINTS_BYTES (sizeof(struct hint) << HINT_BITS)

#endif
