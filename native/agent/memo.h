/* Stacks that were walked before, found again by their innermost return addresses and compared word by word. */
#ifndef LEAKLINE_MEMO_H
#define LEAKLINE_MEMO_H

#include "../unwind/unwind.h"

/*
 * Two steps, the first in the low half, and what they must find. In a plain stack, which goes on at no rbp, each is the distance from the
 * stack pointer; in others, that from the one before, with its kind.
 */
struct pair {
	uint64_t steps;
	uint64_t words[2];
};

struct memo {
	uint32_t sequence; /* odd while it is written */
	uint32_t site;
	uint64_t key;
	uint32_t n_words;
	uint16_t dependencies;
	uint16_t is_plain;
	uint64_t rbp, rbx, r12; /* where depended on: relative to the stack pointer */
	uint64_t sp;		/* where ON_SP */
	struct pair pairs[MOST_WORDS / 2];
};

/* For a return address: which words above it tell its stacks apart, in words from the stack pointer. Learned where keys were the same. */
#define HINT_WORDS 18
struct hint {
	uint64_t tag;
	uint16_t n;
	uint16_t by_depth; /* no word on the page does: take the stack pointer itself */
	uint16_t offsets[HINT_WORDS];
};

/*
 * Each place has two entries, of which its key says which one counts: most stacks fit in the short one, and short ones lie closely, for
 * the sake of the TLB. Keys lie apart from both, so that those of a set are on one cache line.
 */
#define MEMO_SET_BITS 12
#define MEMO_WAYS 4
#define MEMO_PLACES ((uint64_t)MEMO_WAYS << MEMO_SET_BITS)
#define LONG_PLACES (MEMO_PLACES / 2) /* shared by two, as few stacks are long */
#define SHORT_WORDS 22
#define SHORT_MEMO (offsetof(struct memo, pairs) + SHORT_WORDS / 2 * sizeof(struct pair))
#define IS_LONG 1ull /* in a key */
#define KEYS_BYTES (MEMO_PLACES * sizeof(uint64_t))
#define MEMO_BYTES (MEMO_PLACES * SHORT_MEMO + LONG_PLACES * sizeof(struct memo))
#define HINT_BITS 12
#define HINTS_BYTES (sizeof(struct hint) << HINT_BITS)

#endif
