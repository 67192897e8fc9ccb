/*
 * Stacks of callers that are reached by very many ways, all of the same shape, are found at once by a key of the words that tell them
 * apart, where the tree would branch at every one of these.
 */
#include "hints.h"
#include "tree.h"

static inline struct hint *hint_of(uint64_t caller)
{
	return &tables.hints[place_among(caller, HINT_BITS)];
}

/* A hint may be of another caller: it is followed within the page of the stack pointer only, and any word will do for a key. */
uint64_t key_of(const uint64_t *sp)
{
	static const uint64_t factors[HINT_WORDS] = { /* odd, and of no pattern: the products are added, as they need not wait for each other */
		0xc2b2ae3d27d4eb4f, 0x165667b19e3779f9, 0x85ebca77c2b2ae63, 0x27d4eb2f165667c5, 0xa0761d6478bd642f, 0xe7037ed1a0b428db,
		0x8ebc6af09c88c6e3, 0x589965cc75374cc3, 0x1d8e4e27c47d124f, 0xeb44accab455d165, 0x9e3779b185ebca87, 0xd6e8feb86659fd93,
		0x2545f4914f6cdd1d, 0xbf58476d1ce4e5b9, 0x94d049bb133111eb, 0xff51afd7ed558ccd, 0xc4ceb9fe1a85ec53, 0x7fb5d329728ea185,
	};
	const struct hint *hint = hint_of(*sp);
	uint64_t key = *sp * 0x9e3779b97f4a7c15ull;
	uint32_t n = hint->n, page = ((uint64_t)sp & 4095) / 8;
	for (uint32_t i = 0; i < n && i < HINT_WORDS; i++)
		if (page + hint->offsets[i] < 512)
			key += sp[hint->offsets[i]] * factors[i];
	return key ^ key >> 32;
}

static int is_plain(const struct trace *t)
{
	for (uint32_t i = 0; i < t->n_words; i++)
		if (t->kinds[i] != COMPARE || (t->places[i] - t->places[0]) / 8 > UINT16_MAX)
			return 0;
	return !t->is_lost;
}

void prefer_keys(const struct trace *t, uint64_t caller)
{
	struct hint *hint = hint_of(caller);
	if (hint->caller == caller && !hint->is_refused)
		use_keys(caller, 1); /* the tree was begun again */
	if (hint->caller == caller || !is_plain(t))
		return;
	__atomic_store_n(&hint->n, 0, __ATOMIC_RELEASE);
	__atomic_store_n(&hint->is_refused, 0, __ATOMIC_RELEASE);
	__atomic_store_n(&hint->caller, caller, __ATOMIC_RELEASE);
	use_keys(caller, 1);
}

/* Its stacks are not of one shape: the tree is better at these. */
void refuse_keys(uint64_t caller)
{
	struct hint *hint = hint_of(caller);
	if (hint->caller == caller)
		__atomic_store_n(&hint->is_refused, 1, __ATOMIC_RELEASE);
	use_keys(caller, 0);
}

/* Make keys tell a stack from another one with the same key, by the first word that differs. Returns 0 where that cannot be. */
int learn(const uint64_t *sp, const uint64_t *differs)
{
	struct hint *hint = hint_of(*sp);
	uint64_t word = (uint64_t)(differs - sp);
	uint32_t n = hint->n;
	if (!differs || hint->caller != *sp || word >= 512 || n >= HINT_WORDS)
		return 0;
	for (uint32_t i = 0; i < n; i++)
		if (hint->offsets[i] == word)
			return 0;
	__atomic_store_n(&hint->offsets[n], (uint16_t)word, __ATOMIC_RELEASE);
	__atomic_store_n(&hint->n, (uint16_t)(n + 1), __ATOMIC_RELEASE);
	return 1;
}

/* Whether every word of the key is a return address in this stack: others say nothing, and may differ each time. */
int fits_keys(const struct trace *t, const uint64_t *sp)
{
	const struct hint *hint = hint_of(*sp);
	uint64_t compared[8] = {0};
	if (hint->is_refused || hint->caller != *sp || !is_plain(t))
		return 0;
	for (uint32_t i = 0; i < t->n_words; i++) {
		uint64_t away = t->places[i] - (uint64_t)sp;
		if (away < 4096)
			compared[away / 512] |= 1ull << (away / 8 % 64);
	}
	for (uint32_t i = 0; i < hint->n && i < HINT_WORDS; i++) {
		uint32_t word = hint->offsets[i];
		if (((uint64_t)sp & 4095) / 8 + word < 512 && !(compared[word / 64 % 8] >> (word % 64) & 1))
			return 0;
	}
	return 1;
}
