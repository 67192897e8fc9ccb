/* Rows of call frame information in the short form that nearly all have, cached by address. */
#include "unwind.h"

#include <string.h>

static uint64_t pack(enum rule_kind kind, int64_t cfa_offset, int64_t rbp_offset)
{
	return (uint64_t)(uint32_t)cfa_offset << 32 | (uint64_t)(uint16_t)rbp_offset << 16 | (uint64_t)kind;
}

static int is_plain(const struct row *row, enum how how, int number, int64_t value)
{
	return row->registers[number].how == how && row->registers[number].value == value;
}

static uint64_t shorten(const struct row *row)
{
	const struct recovery *rbp = &row->registers[RBP];
	if (row->registers[RETURN_ADDRESS].how == UNDEFINED)
		return pack(RULE_OUTERMOST, 0, 0);
	if (row->cfa_expression || row->is_signal_frame || !is_plain(row, AT_OFFSET, RETURN_ADDRESS, -8))
		return pack(RULE_FULL, 0, 0);
	if (row->cfa_offset != (int32_t)row->cfa_offset || !is_plain(row, SAME, RSP, 0))
		return pack(RULE_FULL, 0, 0);
	int saved = rbp->how == AT_OFFSET && rbp->value && rbp->value == (int16_t)rbp->value;
	if (!saved && rbp->how != SAME)
		return pack(RULE_FULL, 0, 0);
	if (row->cfa_register != RSP && row->cfa_register != RBP)
		return pack(RULE_FULL, 0, 0);
	return pack(row->cfa_register == RSP ? RULE_RSP : RULE_RBP, row->cfa_offset, saved ? rbp->value : 0);
}

#define BUSY 1 /* a tag of no address: somebody writes the rule */

/* Find the rule of a return address, and keep it unless another thread writes in the same place. Readers look at the tag twice. */
uint64_t derive_rule(uint64_t ip, uint64_t tag)
{
	static uint32_t turn;
	struct row row;
	uint64_t header = find_frame_header(ip - 1);
	if (!header)
		__atomic_store_n(&code_outside, 1, __ATOMIC_SEQ_CST);
	uint64_t body = header && find_row(header, ip - 1, &row) ? shorten(&row) : pack(RULE_NONE, 0, 0);
	struct rule *set = tables.rules + rule_set(ip) * RULE_WAYS, *victim = NULL;
	for (int way = 0; way < RULE_WAYS && !victim; way++)
		if (!set[way].tag || set[way].tag >> 48 != tag >> 48)
			victim = &set[way];
	if (!victim)
		victim = &set[__atomic_fetch_add(&turn, 1, __ATOMIC_RELAXED) % RULE_WAYS];
	uint64_t was = __atomic_load_n(&victim->tag, __ATOMIC_RELAXED);
	if (was == BUSY || !__atomic_compare_exchange_n(&victim->tag, &was, BUSY, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
		return body;
	__atomic_store_n(&victim->body, body, __ATOMIC_RELEASE);
	__atomic_store_n(&victim->tag, tag, __ATOMIC_RELEASE);
	return body;
}

/* The whole row: for a return address, or for the instruction that a signal interrupted. */
int find_full_rule(uint64_t ip, int interrupted, struct row *row)
{
	uint64_t tag = rule_tag(ip, module_generation) | (interrupted ? INTERRUPTED : 0);
	struct full_rule *rule = &tables.full_rules[place_among(ip, FULL_RULE_BITS)];
	uint32_t sequence = __atomic_load_n(&rule->sequence, __ATOMIC_ACQUIRE);
	if (!(sequence & 1) && rule->tag == tag) {
		memcpy(row, &rule->row, sizeof *row);
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		if (__atomic_load_n(&rule->sequence, __ATOMIC_RELAXED) == sequence)
			return 1;
	}
	uint64_t pc = interrupted ? ip : ip - 1, header = find_frame_header(pc);
	if (!header || !find_row(header, pc, row))
		return 0;
	sequence &= ~1u;
	if (!__atomic_compare_exchange_n(&rule->sequence, &sequence, sequence + 1, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
		return 1;
	rule->tag = tag;
	memcpy(&rule->row, row, sizeof *row);
	__atomic_store_n(&rule->sequence, sequence + 2, __ATOMIC_RELEASE);
	return 1;
}
