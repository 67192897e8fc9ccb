/*
 * A stack is guessed from the one before it, its caller, and how far the stack pointer has moved: which came next, the last time? What is
 * kept of it is its signature: where its return addresses lie, and a hash of them of 64 bits. If what lies there has the same hash, it is
 * that stack. A signature also says which ones came after it, so that the likeliest is fetched long before it is asked for. This takes two
 * lines of the caches, where the tree takes nine, and a program that works on much memory waits for each.
 *
 * The words are read at once, before any of them is known to be a return address of that stack. So all must lie in what this thread has
 * walked of its own stack, which stays mapped while the thread lives: not on a coroutine's, or a signal's.
 */
#include "follow.h"

#include <string.h>

#define PAGE 4096
#define MOST_EXTENT UINT16_MAX
#define NEAR_ITS_END (64u << 10) /* of the stack of a thread lies its thread pointer; of the first one's, what the program was started with */
#define LEAST_LINES 16384	 /* of signatures: beyond, more only with more sites */
#define LINES_OF_SITE 4
#define SURELY_TRIED 1024	 /* wrong guesses, at first */
#define FIRST_PAUSE 128		 /* decisions that a new thread leaves out: if it ends soon, it is not worth it */
#define PAUSE 64		 /* the same where guesses were wrong, each time twice as many */
#define MOST_FAILURES 6
#define WALKS 16		 /* that are made to know more of the own stack, while it is followed */
#define LOOK_AGAIN 0x3ffffull	 /* allocations: then it is decided anew */

#define SUCCESSORS 4
#define SELDOM 15 /* allocations but one: where threads share them, successors change places so often */

struct signature { /* numbered by lines; 0: none */
	uint64_t hash;
	uint64_t next[SUCCESSORS]; /* a signature that came after it (lower half), and its context (upper half); the likeliest first */
	uint32_t site;	 /* 0: its code has gone */
	uint16_t extent; /* of the outermost word, in words from the stack pointer */
	uint8_t n_fours : 7; /* return addresses, filled up to a number of fours by the last */
	uint8_t has_rbp : 1; /* of the register as it came, the distance from the stack pointer counts */
	uint8_t n_saved;     /* the last words are saved rbps, of which the same counts */
	uint16_t at[];	 /* in words from the stack pointer */
};

struct line {
	uint64_t words[8];
};

_Static_assert(sizeof(struct signature) == offsetof(struct signature, at), "add_signature makes one in one piece");

__thread struct thread *following;
static uint32_t not_moved; /* a mask of allocations after which successors keep their places */
static uint64_t n_lines = 1, lines_open, of_sites_open; /* bytes */
static uint64_t first_stack;				 /* an address behind the outermost frame of the first thread */

void note_first_stack(const void *behind)
{
	first_stack = (uint64_t)behind;
}

static inline struct signature *signature_at(uint32_t number)
{
	return (struct signature *)((struct line *)tables.signatures + number);
}

static inline uint32_t lines_of(uint32_t n_words)
{
	return (uint32_t)((sizeof(struct signature) + n_words * sizeof(uint16_t) + sizeof(struct line) - 1) / sizeof(struct line));
}

/* What is known of a stack before it is looked at: the caller, and how far the stack pointer has moved. */
static inline uint64_t context_of(const struct thread *self, const uint64_t *sp)
{
	return (uint32_t)*sp ^ ((uint32_t)(uint64_t)sp - self->last_sp) * 0x9e3779b1u;
}

/* The one that came after the last signature in the same context; 0: none. It becomes the first; seldom, where others would wait for the line. */
static inline uint32_t next_of(const struct thread *self, uint64_t context)
{
	uint64_t *next = signature_at(self->last)->next;
	uint64_t first = __atomic_load_n(&next[0], __ATOMIC_ACQUIRE);
	if (__builtin_expect(first >> 32 == context, 1))
		return (uint32_t)first;
	for (uint32_t i = 1; i < SUCCESSORS; i++) {
		uint64_t found = __atomic_load_n(&next[i], __ATOMIC_ACQUIRE);
		if (found >> 32 != context)
			continue;
		if (!(self->allocations & __atomic_load_n(&not_moved, __ATOMIC_RELAXED))) {
			__atomic_store_n(&next[i], first, __ATOMIC_RELEASE);
			__atomic_store_n(&next[0], found, __ATOMIC_RELEASE);
		}
		return (uint32_t)found;
	}
	return 0;
}

/* The signature `number` is there: have what will most likely come next fetched, which has two lines at most, but for deep stacks. */
static inline void go_to(struct thread *self, uint32_t number, const uint64_t *sp)
{
	const struct line *next = (const struct line *)signature_at((uint32_t)signature_at(number)->next[0]);
	__builtin_prefetch(next);
	__builtin_prefetch(next + 1);
	self->last = number;
	self->last_sp = (uint32_t)(uint64_t)sp;
}

/* Four polynomials in one odd number, added up with other ones: what is multiplied need not wait for each other. */
static inline uint64_t hash_stack(const struct signature *s, const uint64_t *sp, uint64_t rbp)
{
	const uint64_t factor = 0x9e3779b97f4a7c15ull;
	const uint16_t *at = s->at;
	uint64_t a = 0, b = 0, c = 0, d = 0;
	for (uint32_t i = 0; i < s->n_fours; i++, at += 4) {
		a = a * factor + sp[at[0]];
		b = b * factor + sp[at[1]];
		c = c * factor + sp[at[2]];
		d = d * factor + sp[at[3]];
	}
	for (uint32_t i = 0; i < s->n_saved; i++)
		a = a * factor + (sp[at[i]] - (uint64_t)sp);
	if (s->has_rbp)
		a = a * factor + (rbp - (uint64_t)sp);
	return a + b * 0xa0761d6478bd642full + c * 0xe7037ed1a0b428dbull + d * 0x8ebc6af09c88c6e3ull;
}

static inline int is_there(const struct thread *self, const struct signature *s, const uint64_t *sp, uint64_t rbp)
{
	return (uint64_t)sp >= self->low && (uint64_t)(sp + s->extent) <= self->top && hash_stack(s, sp, rbp) == s->hash;
}

static uint32_t signature_of(uint32_t site)
{
	return (site + 1ull) * sizeof(uint32_t) <= of_sites_open ? __atomic_load_n(&tables.signatures_of[site], __ATOMIC_ACQUIRE) : 0;
}

/* A thread begins to follow (1), or ends (-1): while none does, nothing is asked on the way. One that exits meanwhile still counts. */
static void count_followers(int change)
{
	static uint32_t n;
	uint32_t seen;
	do {
		seen = __atomic_add_fetch(&n, (uint32_t)change, __ATOMIC_SEQ_CST);
		change = 0;
		__atomic_store_n(&not_moved, seen > 1 ? SELDOM : 0, __ATOMIC_RELAXED);
		__atomic_store_n(&leakline_record_quickly, seen ? leakline_record_guessed : leakline_record_known, __ATOMIC_RELEASE);
	} while (__atomic_load_n(&n, __ATOMIC_SEQ_CST) != seen);
}

static void begin(struct thread *self)
{
	self->wrong = 0;
	self->walks = WALKS;
	self->last = 0;
	following = self;
	count_followers(1);
}

static void end(struct thread *self)
{
	self->branchings = 0;
	self->since = (uint32_t)self->allocations;
	if (following)
		count_followers(-1);
	following = NULL;
}

/* A new thread, on another stack than the one that had its place. */
void start_to_count(struct thread *self)
{
	self->top = 0;
	self->pause = FIRST_PAUSE;
	self->failures = 0;
	end(self);
}

/* Where more than half of all allocations branch off in the tree, it is better to follow. Place 0 is shared by threads, and has no stack. */
void decide(struct thread *self)
{
	uint32_t of = (uint32_t)self->allocations - self->since;
	self->branchings = 0;
	if (following || self == &tables.threads[0])
		return;
	self->since = (uint32_t)self->allocations;
	if (self->pause)
		self->pause--;
	else if (of < 2 * BRANCHINGS)
		begin(self);
}

/* One guess in four may be wrong. */
static void note_wrong_guess(struct thread *self)
{
	self->wrong += self->wrong < UINT16_MAX;
	if (following != self || 4u * self->wrong <= (uint32_t)self->allocations - self->since + 4 * SURELY_TRIED)
		return;
	self->pause = (uint16_t)(PAUSE << self->failures);
	self->failures += self->failures < MOST_FAILURES;
	end(self);
}

/* The site of the stack that is there, if it is the one that is guessed; WALK_IT: it lies where nothing is known of; 0: some other. */
uint32_t follow(struct thread *self, const uint64_t *sp, uint64_t rbp)
{
	uint32_t number = self->last ? next_of(self, context_of(self, sp)) : 0;
	const struct signature *s = signature_at(number);
	if (__builtin_expect(modules_may_have_changed, 0))
		return 0;
	if (__builtin_expect(!(self->allocations & LOOK_AGAIN) && following, 0))
		end(self);
	if (__builtin_expect(number && is_there(self, s, sp, rbp), 1)) {
		go_to(self, number, sp);
		return __atomic_load_n(&s->site, __ATOMIC_RELAXED);
	}
	note_wrong_guess(self);
	if ((uint64_t)sp - self->low < self->top - self->low || !self->walks)
		return 0;
	self->walks--;
	return WALK_IT;
}

/* What came in place of what was guessed: in the place of what came in the same context, or else in a free one, or in any but the first. */
void note_next(struct thread *self, const uint64_t *sp, uint32_t site)
{
	uint32_t number = signature_of(site);
	if (self->last && number) {
		uint64_t *next = signature_at(self->last)->next, context = context_of(self, sp);
		uint32_t place = 0;
		while (place < SUCCESSORS && next[place] && next[place] >> 32 != context)
			place++;
		if (place == SUCCESSORS)
			place = 1 + (uint32_t)(self->allocations % (SUCCESSORS - 1));
		__atomic_store_n(&next[place], context << 32 | number, __ATOMIC_RELEASE);
	}
	if (number)
		go_to(self, number, sp);
	else
		self->last = 0;
}

/* Whether return addresses and frame pointers are all that tells this stack; says how far it reaches. */
static int is_plain(const struct trace *t, const uint64_t *sp, uint64_t *top)
{
	*top = 0;
	for (uint32_t i = 0; i < t->n_words; i++) {
		if (t->kinds[i] > RBP_ITSELF || t->places[i] < (uint64_t)sp)
			return 0;
		*top = t->places[i] > *top ? t->places[i] : *top;
	}
	return !t->is_lost && *top;
}

/*
 * Learn from a walk what the own stack of this thread spans: its outermost frame lies near what is behind every thread's stack. A frame that
 * is found by rbp may lie on another stack than the one before it, but not with a page between them if it is less than one away.
 */
void note_span(struct thread *self, const struct trace *t, const uint64_t *sp)
{
	uint64_t pointer, top, low = (uint64_t)sp;
	__asm__("movq %%fs:0, %0" : "=r"(pointer)); /* System V ABI, thread-local storage: it points to itself */
	if (self == &tables.threads[0] || !is_plain(t, sp, &top) || (pointer - top > NEAR_ITS_END && first_stack - top > NEAR_ITS_END))
		return;
	for (uint32_t i = 1; i + 1 < t->n_words; i++)
		if (t->kinds[i] != COMPARE && t->places[i + 1] - t->places[i - 1] >= PAGE)
			return;
	if (!self->top || low < self->low)
		self->low = low;
	if (top > self->top)
		self->top = top;
}

/* Keep what a stack is told by, under the lock of the records. */
void add_signature(const struct trace *t, const uint64_t *sp, uint64_t rbp, uint32_t site)
{
	struct {
		struct signature signature;
		uint16_t at[MOST_WORDS + 4];
	} made = {.signature = {.site = site}};
	uint32_t n = 0, old = signature_of(site);
	uint64_t top;
	if (!is_plain(t, sp, &top) || (top - (uint64_t)sp) / 8 > MOST_EXTENT)
		return;
	for (uint32_t i = 0; i < t->n_words; i++) {
		if (t->kinds[i] == COMPARE)
			made.at[n++] = (uint16_t)((t->places[i] - (uint64_t)sp) / 8);
		made.signature.n_saved = (uint8_t)(made.signature.n_saved + (t->kinds[i] == SAVED_RBP));
		made.signature.has_rbp |= t->kinds[i] == RBP_ITSELF;
	}
	for (; n % 4; n++)
		made.at[n] = made.at[n - 1];
	made.signature.n_fours = (n / 4) & 127;
	made.signature.extent = (uint16_t)((top - (uint64_t)sp) / 8);
	for (uint32_t i = 0; i < t->n_words; i++)
		if (t->kinds[i] == SAVED_RBP)
			made.at[n++] = (uint16_t)((t->places[i] - (uint64_t)sp) / 8);
	made.signature.hash = hash_stack(&made.signature, sp, rbp);
	if (old && signature_at(old)->hash == made.signature.hash && signature_at(old)->site == site)
		return;
	uint32_t lines = lines_of(n);
	if (n_lines > LEAST_LINES + LINES_OF_SITE * leakline_agent_state.n_sites || (n_lines + lines) * sizeof(struct line) > tables.signatures_bytes ||
	    !room_for(tables.signatures, &lines_open, (n_lines + lines) * sizeof(struct line)) ||
	    !room_for(tables.signatures_of, &of_sites_open, (site + 1ull) * sizeof(uint32_t)))
		return;
	memcpy(signature_at((uint32_t)n_lines), &made, sizeof made.signature + n * sizeof *made.at);
	__atomic_store_n(&tables.signatures_of[site], (uint32_t)n_lines, __ATOMIC_RELEASE);
	n_lines += lines;
}

/* Stacks through modules that are gone are met no more, whatever is loaded in the same place. */
void drop_signatures(const struct agent_range *gone, size_t n_gone)
{
	uint64_t signals;
	lock_records(&signals);
	for (uint64_t number = 1; number < n_lines;) {
		struct signature *s = signature_at((uint32_t)number);
		if (s->site && passes_through(&tables.sites[s->site], gone, n_gone, NULL))
			__atomic_store_n(&s->site, 0, __ATOMIC_RELEASE);
		number += lines_of(4u * s->n_fours + s->n_saved);
	}
	unlock_records(&signals);
}
