/*
 * Records an allocation: by the memo, which costs about as much as the allocation itself, or else by walking the stack.
 *
 * An entry holds what the walk depended on, in the order in which it was read. If all of it is the same, the walk would read the same
 * again, up to its end. The order matters: a later word may not even be mapped unless the ones before it are the same.
 * All threads share the entries. A writer makes the sequence odd meanwhile; a reader looks at it before it follows an offset.
 */
#include "memo.h"
#include "syscalls.h"

#include <string.h>

#ifdef LEAKLINE_AGENT_SELF_CHECK
EXPORT uint64_t leakline_agent_checked, leakline_agent_disagreements;
#endif

static inline struct hint *hint_of(uint64_t ip)
{
	return &tables.hints[ip * 0x9e3779b97f4a7c15ull >> (64 - HINT_BITS)];
}

/* A hint may be of another stack: it is followed within the page of the stack pointer only, and any word will do for a key. */
static inline uint64_t key_of(const uint64_t *sp)
{
	static const uint64_t factors[HINT_WORDS] = { /* odd, and of no pattern: the products are added, as they need not wait for each other */
		0xc2b2ae3d27d4eb4f, 0x165667b19e3779f9, 0x85ebca77c2b2ae63, 0x27d4eb2f165667c5, 0xa0761d6478bd642f, 0xe7037ed1a0b428db,
		0x8ebc6af09c88c6e3, 0x589965cc75374cc3, 0x1d8e4e27c47d124f, 0xeb44accab455d165, 0x9e3779b185ebca87, 0xd6e8feb86659fd93,
		0x2545f4914f6cdd1d, 0xbf58476d1ce4e5b9, 0x94d049bb133111eb, 0xff51afd7ed558ccd, 0xc4ceb9fe1a85ec53, 0x7fb5d329728ea185,
	};
	const struct hint *hint = hint_of(*sp);
	uint64_t key = (*sp + module_generation) * 0x9e3779b97f4a7c15ull;
	if (__builtin_expect(hint->tag != *sp, 1))
		return key & ~IS_LONG;
	uint32_t n = hint->n, page = ((uint64_t)sp & 4095) / 8;
	for (uint32_t i = 0; i < n && i < HINT_WORDS; i++)
		if (page + hint->offsets[i] < 512)
			key += sp[hint->offsets[i]] * factors[i];
	if (hint->by_depth)
		key += (uint64_t)sp * 0xd6e8feb86659fd8dull;
	key = (key ^ key >> 32) * 0x9fb21c651e98df25ull;
	return (key ^ key >> 32) & ~IS_LONG;
}

/* The first place of a key's set. */
static inline uint64_t set_of(uint64_t key)
{
	return ((key ^ key << 29) >> (64 - MEMO_SET_BITS)) * MEMO_WAYS;
}

static inline struct memo *entry_at(uint64_t place, uint64_t is_long)
{
	uint8_t *entries = (uint8_t *)tables.memo;
	return (struct memo *)(is_long ? entries + MEMO_PLACES * SHORT_MEMO + place % LONG_PLACES * sizeof(struct memo) : entries + place * SHORT_MEMO);
}

static inline int same_registers(const struct memo *m, uint64_t sp, uint64_t rbp, uint64_t rbx, uint64_t r12)
{
	uint32_t on = m->dependencies;
	return !((on & ON_RBP && rbp - sp != m->rbp) || (on & ON_RBX && rbx - sp != m->rbx) || (on & ON_R12 && r12 - sp != m->r12) ||
		 (on & ON_SP && sp != m->sp));
}

/* One step that is no plain comparison. */
static inline int follow(uint32_t step, uint64_t expected, uint64_t sp, uint64_t rbp, uint64_t *at)
{
	enum step_kind kind = step & KIND_MASK;
	*at += (uint64_t)(int64_t)(int32_t)(step & ~KIND_MASK);
	uint64_t word = kind == GO_ON_AT_RBP ? rbp : *(const uint64_t *)*at;
	if (kind == COMPARE_DISTANCE)
		return word - sp == expected;
	if (word - *at >= LONGEST_JUMP || word & 7)
		return 0;
	*at = word;
	return 1;
}

#define BOTH_KINDS ((uint64_t)KIND_MASK << 32 | KIND_MASK)

/* The same for a plain stack. What a pair says is used only after the sequence was looked at once more. */
static inline int same_plain_words(const struct memo *m, uint32_t sequence, const uint8_t *sp)
{
	for (const struct pair *p = m->pairs, *end = p + m->n_words / 2; p < end; p++) {
		const int32_t *steps = (const int32_t *)&p->steps;
		const uint8_t *first = sp + steps[0], *second = sp + steps[1];
		uint64_t word = p->words[0], other = p->words[1];
		if (__builtin_expect(__atomic_load_n(&m->sequence, __ATOMIC_ACQUIRE) != sequence, 0))
			return 0;
		if (__builtin_expect(*(const uint64_t *)first != word || *(const uint64_t *)second != other, 0))
			return 0;
	}
	return 1;
}

/* Two steps at a time, to look at the sequence half as often. An odd number is filled up by one that compares the last word again. */
static inline int same_words(const struct memo *m, uint32_t sequence, uint64_t sp, uint64_t rbp)
{
	uint64_t at = sp;
	const struct pair *end = m->pairs + m->n_words / 2;
	for (const struct pair *p = m->pairs; p < end; p++) {
		const uint64_t *word = p->words;
		uint64_t pair = __atomic_load_n(&p->steps, __ATOMIC_ACQUIRE);
		if (__builtin_expect(__atomic_load_n(&m->sequence, __ATOMIC_ACQUIRE) != sequence, 0))
			return 0;
		if (__builtin_expect(!(pair & BOTH_KINDS), 1)) {
			at += (uint64_t)(int64_t)(int32_t)pair;
			if (*(const uint64_t *)at != word[0])
				return 0;
			at += (uint64_t)((int64_t)pair >> 32);
			if (*(const uint64_t *)at != word[1])
				return 0;
			continue;
		}
		for (int i = 0; i < 2; i++, pair >>= 32) {
			if (pair & KIND_MASK) {
				if (!follow((uint32_t)pair, word[i], sp, rbp, &at))
					return 0;
				continue;
			}
			at += (uint64_t)(int64_t)(int32_t)pair;
			if (*(const uint64_t *)at != word[i])
				return 0;
		}
	}
	return 1;
}

/* The site of the stack, 0 where it is not known. */
static inline uint32_t find(uint64_t key, const uint64_t *sp, uint64_t rbp, uint64_t rbx, uint64_t r12)
{
	uint64_t set = set_of(key);
	for (uint64_t place = set; place < set + MEMO_WAYS; place++) {
		uint64_t found = __atomic_load_n(&tables.memo_keys[place], __ATOMIC_ACQUIRE);
		if ((found & ~IS_LONG) != key)
			continue;
		const struct memo *m = entry_at(place, found & IS_LONG);
		uint32_t sequence = __atomic_load_n(&m->sequence, __ATOMIC_ACQUIRE);
		if (m->key != key || sequence & 1)
			continue;
		if (__builtin_expect(m->dependencies, 0) && !same_registers(m, (uint64_t)sp, rbp, rbx, r12))
			continue;
		if (m->is_plain ? !same_plain_words(m, sequence, (const uint8_t *)sp) : !same_words(m, sequence, (uint64_t)sp, rbp))
			continue;
		uint32_t site = m->site;
		if (__atomic_load_n(&m->sequence, __ATOMIC_ACQUIRE) == sequence)
			return site;
	}
	return 0;
}

/*
 * Plain stacks of a return address that has had few: the same as below, for the many, in as few instructions as can be. The block is in
 * sp[-3], its size in sp[-2]: of one argument, it needs hardly a register that it would have to save.
 */
int leakline_record_plain(const uint64_t *sp)
{
#ifdef LEAKLINE_AGENT_SELF_CHECK
	return 0;
#endif
	struct thread *self = this_thread;
	uint64_t key = (*sp + module_generation) * 0x9e3779b97f4a7c15ull & ~IS_LONG, place = set_of(key);
	if (__builtin_expect(!self || modules_may_have_changed || hint_of(*sp)->tag == *sp, 0))
		return 0;
	if (__builtin_expect(__atomic_load_n(&tables.memo_keys[place], __ATOMIC_ACQUIRE) != key, 0))
		return 0;
	const struct memo *m = entry_at(place, 0);
	uint32_t sequence = __atomic_load_n(&m->sequence, __ATOMIC_ACQUIRE);
	if (__builtin_expect(sequence & 1 || !m->is_plain || !same_plain_words(m, sequence, (const uint8_t *)sp), 0))
		return 0;
	uint32_t site = m->site;
	if (__builtin_expect(__atomic_load_n(&m->sequence, __ATOMIC_ACQUIRE) != sequence || !site, 0))
		return 0;
	if (!note_block((void *)sp[-3], sp[-2], site))
		return 0;
	self->allocations++;
	return 1;
}

int leakline_record_known(void *block, size_t size, const uint64_t *sp, uint64_t rbp, uint64_t rbx, uint64_t r12)
{
#ifdef LEAKLINE_AGENT_SELF_CHECK
	return 0;
#endif
	struct thread *self = this_thread;
	if (__builtin_expect(!self || modules_may_have_changed, 0))
		return 0;
	uint32_t site = find(key_of(sp), sp, rbp, rbx, r12);
	if (!site || !note_block(block, size, site))
		return 0;
	self->allocations++;
	return 1;
}

/* The first word in which a trace differs from an entry of the same key, in words from the stack pointer; 0 if it is too far away. */
static uint32_t first_difference(const struct trace *t, const struct memo *m, uint64_t sp)
{
	uint64_t at = sp;
	for (uint32_t i = 0; i < t->n_words && i < m->n_words; i++) {
		uint32_t kind = t->steps[i] & KIND_MASK, step = (uint32_t)(m->pairs[i / 2].steps >> i % 2 * 32);
		at += (uint64_t)(int64_t)(int32_t)(t->steps[i] & ~KIND_MASK);
		if (m->is_plain ? kind || (uint32_t)(at - sp) != step : t->steps[i] != step)
			return 0;
		if (kind == COMPARE && t->words[i] != m->pairs[i / 2].words[i % 2])
			return at - sp < 4096 ? (uint32_t)(at - sp) / 8 : 0;
		if (kind == GO_ON_THERE || kind == GO_ON_AT_RBP)
			at = t->words[i];
	}
	return 0;
}

/* Make keys of this return address tell the two apart from now on. Returns 0 where that cannot be. */
static int learn(const struct trace *t, const struct memo *m, const uint64_t *sp)
{
	struct hint *hint = hint_of(*sp);
	uint32_t word = first_difference(t, m, (uint64_t)sp), n = hint->tag == *sp ? hint->n : 0;
	if (hint->tag != *sp)
		__atomic_store_n(&hint->by_depth, 0, __ATOMIC_RELEASE);
	for (uint32_t i = 0; i < n && i < HINT_WORDS; i++)
		if (hint->offsets[i] == word)
			word = 0;
	if (word && n < HINT_WORDS) {
		__atomic_store_n(&hint->offsets[n], (uint16_t)word, __ATOMIC_RELEASE);
		__atomic_store_n(&hint->n, (uint16_t)(n + 1), __ATOMIC_RELEASE);
	} else if (hint->by_depth) {
		return 0;
	} else {
		__atomic_store_n(&hint->n, (uint16_t)n, __ATOMIC_RELEASE);
		__atomic_store_n(&hint->by_depth, 1, __ATOMIC_RELEASE);
	}
	__atomic_store_n(&hint->tag, *sp, __ATOMIC_RELEASE);
	return 1;
}

/* Words that are no return address in every stack say nothing, and may differ each time: take the depth instead. */
static void doubt_hint(const struct trace *t, const uint64_t *sp)
{
	struct hint *hint = hint_of(*sp);
	uint64_t compared[8] = {0}, at = (uint64_t)sp;
	if (hint->tag != *sp || !hint->n)
		return;
	for (uint32_t i = 0; i < t->n_words; i++) {
		uint32_t kind = t->steps[i] & KIND_MASK;
		at += (uint64_t)(int64_t)(int32_t)(t->steps[i] & ~KIND_MASK);
		if (kind == COMPARE && at - (uint64_t)sp < 4096)
			compared[(at - (uint64_t)sp) / 512] |= 1ull << ((at - (uint64_t)sp) / 8 % 64);
		if (kind == GO_ON_THERE || kind == GO_ON_AT_RBP)
			at = t->words[i];
	}
	for (uint32_t i = 0; i < hint->n && i < HINT_WORDS; i++) {
		uint32_t word = hint->offsets[i];
		if (((uint64_t)sp & 4095) / 8 + word >= 512 || compared[word / 64 % 8] >> (word % 64) & 1)
			continue;
		__atomic_store_n(&hint->n, (uint16_t)i, __ATOMIC_RELEASE);
		__atomic_store_n(&hint->by_depth, 1, __ATOMIC_RELEASE);
		return;
	}
}

#define NO_PLACE UINT64_MAX

/* Which place a stack gets: a free one, or another's; none where too many stacks have the same key for the memo to be of use. */
static uint64_t choose(const struct trace *t, uint64_t *key, const uint64_t *sp, uint32_t turn)
{
	uint64_t set = set_of(*key);
	for (uint64_t place = set; place < set + MEMO_WAYS; place++)
		if (!tables.memo_keys[place])
			return place;
	uint64_t place = set + turn % MEMO_WAYS, other = tables.memo_keys[place];
	if ((other & ~IS_LONG) != *key)
		return place;
	if (!learn(t, entry_at(place, other & IS_LONG), sp))
		return turn & 8 ? NO_PLACE : place;
	*key = key_of(sp);
	return set_of(*key) + turn % MEMO_WAYS;
}

/* A stack that goes on at no rbp, and whose words are near enough, each by its distance from the stack pointer. */
static int is_plain(const struct trace *t)
{
	int64_t at = 0;
	if (t->dependencies)
		return 0;
	for (uint32_t i = 0; i < t->n_words; i++) {
		at += (int32_t)t->steps[i];
		if (t->steps[i] & KIND_MASK || at != (int32_t)at)
			return 0;
	}
	return 1;
}

static void remember(const struct trace *t, const uint64_t *sp, const struct registers *r, uint32_t site, uint32_t turn)
{
	if (t->steps[t->n_words - 1] & KIND_MASK)
		return; /* it ended at a doubtful rbp, where nothing may be read */
	doubt_hint(t, sp);
	uint64_t key = key_of(sp), place = choose(t, &key, sp, turn), is_long = t->n_words > SHORT_WORDS ? IS_LONG : 0;
	if (place == NO_PLACE)
		return;
	struct memo *m = entry_at(place, is_long);
	uint32_t sequence = __atomic_load_n(&m->sequence, __ATOMIC_RELAXED) & ~1u;
	if (!__atomic_compare_exchange_n(&m->sequence, &sequence, sequence + 1, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
		return; /* another thread writes it, or this one did when a signal came */
	m->key = key;
	m->site = site;
	m->n_words = t->n_words + t->n_words % 2;
	m->dependencies = (uint16_t)t->dependencies;
	m->is_plain = (uint16_t)is_plain(t);
	m->rbp = r->rbp - (uint64_t)sp;
	m->rbx = r->rbx - (uint64_t)sp;
	m->r12 = r->r12 - (uint64_t)sp;
	m->sp = (uint64_t)sp;
	uint32_t at = 0;
	for (uint32_t i = 0; i < t->n_words; i += 2) {
		uint32_t has_second = i + 1 < t->n_words; /* else the outermost return address, again */
		uint32_t first = t->steps[i], second = has_second ? t->steps[i + 1] : 0;
		if (m->is_plain) {
			first += at;
			second += first;
			at = second;
		}
		__atomic_store_n(&m->pairs[i / 2].steps, first | (uint64_t)second << 32, __ATOMIC_RELAXED);
		m->pairs[i / 2].words[0] = t->words[i];
		m->pairs[i / 2].words[1] = t->words[i + has_second];
	}
	__atomic_store_n(&m->sequence, sequence + 2, __ATOMIC_RELEASE);
	__atomic_store_n(&tables.memo_keys[place], key | is_long, __ATOMIC_RELEASE);
}

#ifdef LEAKLINE_AGENT_SELF_CHECK
/* What the memo says must be what a walk with all registers finds. */
static void check_against_walk(const struct registers *r, const uint64_t *sp)
{
	struct trace t;
	uint32_t site = find(key_of(sp), sp, r->rbp, r->rbx, r->r12);
	if (!site)
		return;
	walk_fully(&t, r, sp);
	const struct agent_site *s = &tables.sites[site];
	__atomic_add_fetch(&leakline_agent_checked, 1, __ATOMIC_RELAXED);
	if (s->n_frames != t.n_frames || s->flags != t.flags || memcmp(tables.frames + s->first_frame, t.frames, 8 * t.n_frames))
		__atomic_add_fetch(&leakline_agent_disagreements, 1, __ATOMIC_RELAXED);
}

void print_check(void)
{
	char line[96], *to = line;
	to = put_text(to, "leakline agent: ");
	to = put_number(to, leakline_agent_checked, 10);
	to = put_text(to, " checked, ");
	to = put_number(to, leakline_agent_disagreements, 10);
	to = put_text(to, " differ\n");
	syscall_3(SYS_write, 2, (long)line, to - line);
}
#endif

static uint32_t walk_and_remember(struct thread *self, const struct registers *registers, const uint64_t *sp, int lasting)
{
	struct trace trace;
	walk_stack(&trace, registers, sp);
	uint32_t turn = self->turn++;
	self->misses++;
	self->truncated += trace.cut;
	uint32_t site = intern_site(trace.frames, trace.n_frames, trace.hash, trace.flags);
	if (!site || !lasting || trace.dependencies & ON_MORE)
		return site;
	remember(&trace, sp, registers, site, turn);
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
	/* The loader allocates when it loads a module: always look at the modules again after that, and so keep it out of the memo. */
	int by_loader = is_in_loader(*sp);
	note_block(block, size, walk_and_remember(self, registers, sp, !by_loader));
	if (by_loader)
		__atomic_store_n(&modules_may_have_changed, 1, __ATOMIC_RELEASE);
	if ((++self->allocations & 0xffff) == 0 || self->misses < 64)
		sum_counters();
}
