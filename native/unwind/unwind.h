/* Unwinding by call frame information (DWARF 5 6.4, System V ABI for x86-64 3.7, LSB 10.6), without any lock or allocation. */
#ifndef LEAKLINE_UNWIND_H
#define LEAKLINE_UNWIND_H

#include "../agent/agent.h"

/* DWARF numbers of the registers. */
enum { RAX, RDX, RCX, RBX, RSI, RDI, RBP, RSP, R8, R9, R10, R11, R12, R13, R14, R15, RETURN_ADDRESS, N_REGISTERS };

enum how { SAME, UNDEFINED, AT_OFFSET, IS_OFFSET, AT_EXPRESSION, IS_EXPRESSION, IN_REGISTER };

struct recovery { /* how a frame's caller's register is found */
	uint8_t how;
	int64_t value;             /* offset from the CFA, or the number of a register */
	const uint8_t *expression; /* its length in ULEB128 comes first */
};

struct row { /* what holds at one instruction */
	const uint8_t *cfa_expression; /* instead of the next two */
	uint32_t cfa_register;
	int64_t cfa_offset;
	int is_signal_frame;
	struct recovery registers[N_REGISTERS];
};

/* cfi.c: the row of an instruction, from .eh_frame_hdr of its module. Returns 0 where there is none that can be understood. */
int find_row(uint64_t frame_header, uint64_t pc, struct row *row);
uint64_t read_uleb(const uint8_t **at);
int64_t read_sleb(const uint8_t **at);

/*
 * rules.c: rows that were found before. Most say no more than: the CFA is rsp or rbp plus so much, the return address lies below it, and
 * rbp is saved at an offset from it or still there. Such a rule fits in a word.
 */
enum rule_kind { RULE_NONE, RULE_RSP, RULE_RBP, RULE_OUTERMOST, RULE_FULL };

struct rule {
	uint64_t tag;  /* address, whether interrupted there, generation of the modules */
	uint64_t body; /* 63..32 CFA's offset, 31..16 offset of the saved rbp or 0, 7..0 enum rule_kind */
};

struct full_rule {
	uint64_t tag;
	uint32_t sequence; /* odd while it is written */
	struct row row;
};

#define RULE_SET_BITS 14
#define RULE_WAYS 4
#define RULES_BYTES ((sizeof(struct rule) * RULE_WAYS) << RULE_SET_BITS)
#define FULL_RULE_BITS 11
#define FULL_RULES_BYTES (sizeof(struct full_rule) << FULL_RULE_BITS)
#define INTERRUPTED (1ull << 47) /* in a tag: the instruction has not run yet, as a signal's frame is above it */

static inline uint64_t rule_tag(uint64_t ip, uint64_t generation)
{
	return ip | generation << 48;
}

static inline uint64_t rule_set(uint64_t ip)
{
	return place_among(ip, RULE_SET_BITS);
}

uint64_t derive_rule(uint64_t ip, uint64_t tag);
int find_full_rule(uint64_t ip, int interrupted, struct row *row);

static inline enum rule_kind kind_of(uint64_t body)
{
	return (enum rule_kind)(body & 255);
}

static inline int64_t cfa_offset_of(uint64_t body)
{
	return (int32_t)(body >> 32);
}

static inline int64_t rbp_offset_of(uint64_t body)
{
	return (int16_t)(body >> 16);
}

/*
 * walk.c: a stack, and all that it was found by. A step says where a word was read, what it was for, and what was found: the word, or, of
 * an address in the stack, its distance from the stack pointer.
 */
#define MOST_WORDS 96

enum step_kind {
	COMPARE,	/* a return address */
	SAVED_RBP,	/* what is read next lies by this distance from it, if it is near; else it is compared by its distance */
	RBP_ITSELF,	/* the register as it came, likewise */
	WORD_DISTANCE,	/* any other word that addresses come from */
	RBP_DISTANCE,	/* registers as they came */
	RBX_DISTANCE,
	R12_DISTANCE,
	DEPTH,		/* the stack pointer: this holds nowhere else */
};
#define KIND_MASK 7u
#define LONGEST_JUMP (32u << 10) /* by rbp without asking: frames are rarely larger */
#define IS_NEAR 1		 /* what is found in place of a distance: no address is so close to a stack pointer */

struct trace {
	uint32_t n_frames, n_words;
	uint16_t flags;	      /* enum agent_site_flag */
	uint16_t cut;	      /* by the depth limit, or where no call frame information was */
	uint8_t is_full;      /* walked by whole rows */
	uint8_t is_lost;      /* it depends on more than the steps say */
	uint16_t once;	      /* kinds of steps about registers that there are already */
	uint64_t hash, last;  /* last: where the step before ended */
	uint64_t frames[MOST_FRAMES];
	uint64_t places[MOST_WORDS];
	uint64_t words[MOST_WORDS];
	uint8_t kinds[MOST_WORDS];
};

static inline int is_near(uint64_t address, uint64_t from)
{
	return address - from < LONGEST_JUMP && !(address & 7);
}

void walk_stack(struct trace *trace, const struct registers *registers, const uint64_t *sp);
void walk_fully(struct trace *trace, const struct registers *registers, const uint64_t *sp);
void leave_functions(const struct agent_range *functions, size_t n, struct registers *registers, uint64_t *sp);

#endif
