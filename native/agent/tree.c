/*
 * Known stacks, as a tree: what a walk reads first is where it begins, and where two walks read different things it branches.
 *
 * What has been read so far decides where a walk reads next, and so does a place in the tree. It says what the first stack that came here
 * went on with: a run of return addresses, and what follows them. Any other stack is looked for by the place where it differs and by what
 * it has there. Everything is compared in the order in which a walk reads it: a later word may not even be mapped unless those before it
 * are the same.
 *
 * Nothing is ever changed or used again, so that readers need no lock, and may be signal handlers. Only where a module has vanished the
 * words that lie in it are made such as no stack has; and while one may have, the roots are out of sight.
 */
#include "follow.h"
#include "hints.h"
#include "tree.h"

#define ROOT_BITS 12
#define NEVER (1ull << 63) /* no return address */
#define FIRST_BRANCHES (1u << 12)
#define LEAST_ROOM (16ull << 20) /* bytes: beyond, it may only grow with the number of sites, and not by places and depths of the same */
#define ROOM_OF_SITE 1024
/* The tree is begun again after so many allocations of a thread, and after so many times as many. */
#define FIRST_BEGINNING (1ull << 18)
#define BEGINNING_BITS 3
#define MOST_BEGINNINGS 3

enum { MOVE_BASE = DEPTH + 1, STACK_ENDS }; /* no steps of a walk; the first: what follows lies too far away */
enum root { SHORT_ROOT = 1, FULL_ROOT = 2, KEY_ROOT = 3 }; /* walks by short rules read less, and in another order; stacks by a key */

struct four {
	uint16_t at[4]; /* in words, from the base */
	uint64_t words[4];
};

/* Some return addresses, and what comes behind them. The base is the stack pointer, or the rbp from which a walk went on. */
struct run {
	uint64_t word;	   /* by which it is found: of a root the caller, else what was read instead of what was expected */
	uint64_t expected; /* in the step behind the return addresses */
	uint32_t place;	   /* where `word` was read, or an enum root */
	uint32_t next;	   /* run behind that step, or the site, if the stack ends */
	uint16_t at;	   /* of that step, in words from the base */
	uint8_t kind;	   /* of that step */
	uint8_t n;	   /* return addresses */
	uint8_t n_even;	   /* an odd number is filled up: the last is there twice */
	uint8_t has_keys; /* of a root: other stacks of the caller are found by a key */
	uint8_t pad[2];
	struct four fours[];
};

/* Runs are numbered by where they lie, in words from here; 0: none. So are places in them. */
struct tree {
	struct run none;
	uint32_t roots[1u << ROOT_BITS]; /* by the caller */
};

struct branch {
	uint32_t hash;
	uint32_t run; /* 0: unused */
};

struct branches {
	uint64_t mask, n;
	struct branch at[];
};

static struct tree nothing;
static struct tree *now = &nothing;
static uint64_t used = sizeof(struct tree) / 8, tree_open = TREE_START; /* words, bytes */
static struct branches no_branches = {.at = {{0, 0}}}, *branches = &no_branches;
static uint64_t branches_end; /* bytes that are used up */
static int has_full;
static uint32_t n_begun;

_Static_assert(sizeof(struct branch) == 8 && sizeof(struct run) == 32 && sizeof(struct four) == 40 && sizeof(struct tree) % 8 == 0, "in words");

static inline const struct run *run_at(const struct tree *tree, uint32_t number)
{
	return (const struct run *)((const uint64_t *)tree + number);
}

static inline uint32_t number_of(const void *place)
{
	return (uint32_t)((const uint64_t *)place - (const uint64_t *)tables.tree);
}

static uint64_t hash_of(uint32_t place, uint64_t word)
{
	uint64_t hash = (word ^ place * 0xc2b2ae3d27d4eb4full) * 0x9e3779b97f4a7c15ull;
	return hash ^ hash >> 32;
}

static inline const struct run *look_up(uint32_t place, uint64_t word)
{
	const struct branches *all = __atomic_load_n(&branches, __ATOMIC_ACQUIRE);
	uint64_t hash = hash_of(place, word);
	for (uint64_t at = hash & all->mask;; at = (at + 1) & all->mask) {
		struct branch branch;
		uint64_t both = __atomic_load_n((const uint64_t *)&all->at[at], __ATOMIC_ACQUIRE);
		__builtin_memcpy(&branch, &both, 8);
		if (!branch.run)
			return NULL;
		const struct run *r = run_at(tables.tree, branch.run);
		if (branch.hash == (uint32_t)(hash >> 32) && r->word == word && r->place == place)
			return r;
	}
}

/* What a step finds that reads no return address. The base moves where the walk goes on from an rbp. */
static inline uint64_t observe(uint32_t kind, const uint64_t *place, const struct entered *e, const uint64_t **base)
{
	uint64_t sp = (uint64_t)e->sp, rbp;
	switch (kind) {
	case SAVED_RBP:
	case RBP_ITSELF:
		rbp = kind == SAVED_RBP ? *place : e->rbp;
		if (is_near(rbp, (uint64_t)place)) {
			*base = (const uint64_t *)rbp;
			return IS_NEAR;
		}
		return rbp - sp == IS_NEAR ? NEVER : rbp - sp;
	case WORD_DISTANCE:
		return *place - sp;
	case RBP_DISTANCE:
		return e->rbp - sp;
	case RBX_DISTANCE:
		return e->rbx - sp;
	case R12_DISTANCE:
		return e->r12 - sp;
	default:
		return sp;
	}
}

/* A word of a run that is not on the stack, and where it should be, in words from the base; NULL if all are. */
struct difference {
	const uint64_t *expected;
	const uint16_t *at;
};

#define RETURN_IF_OTHER(i)                        \
	if (__builtin_expect(base[f->at[i]] != f->words[i], 0)) \
	return (struct difference)                \
	{                                         \
		&f->words[i], &f->at[i]           \
	}

static inline struct difference compare(const struct run *r, const uint64_t *base)
{
	const struct four *f = r->fours;
	uint32_t left = r->n_even;
	for (; left >= 4; left -= 4, f++) {
		RETURN_IF_OTHER(0);
		RETURN_IF_OTHER(1);
		RETURN_IF_OTHER(2);
		RETURN_IF_OTHER(3);
	}
	if (left) {
		RETURN_IF_OTHER(0);
		RETURN_IF_OTHER(1);
	}
	return (struct difference){NULL, NULL};
}

static uint32_t index_of(const struct run *r, const uint64_t *word)
{
	uint64_t away = (uint64_t)((const uint8_t *)word - (const uint8_t *)r->fours), four = away / sizeof(struct four);
	return (uint32_t)(4 * four + (uint64_t)(word - r->fours[four].words));
}

/* Where a stack leaves the tree. */
struct end {
	const uint64_t *base;
	const uint64_t *read; /* where the word lay that nobody had before, or what it was found by */
	uint64_t word;
	uint32_t place;	     /* in the tree */
	uint32_t kind;	     /* of the step there */
	uint32_t n_steps;    /* of the walk, with that one */
	uint32_t n_branches; /* on the way */
};

/*
 * On through the tree, from where a run was compared: the site of a stack, or 0 where it is not known, and how far it is, if that is
 * wanted.
 */
static inline __attribute__((always_inline)) uint32_t go_on(const struct run *r, struct difference other, const uint64_t *base, const struct entered *e,
							    struct end *end)
{
	const struct tree *tree = tables.tree;
	for (;;) {
		const struct run *next;
		const uint64_t *read = NULL;
		uint64_t word = 0;
		uint32_t place = 0, kind = COMPARE, n_steps = 1;
		if (other.expected) {
			read = base + *other.at;
			word = *read;
			place = number_of(other.expected);
			next = look_up(place, word);
			n_steps += end ? index_of(r, other.expected) : 0;
		} else if (r->kind == MOVE_BASE) {
			base += r->expected;
			next = run_at(tree, r->next);
			n_steps = r->n;
		} else {
			read = base + r->at;
			kind = r->kind;
			word = observe(kind, read, e, &base);
			place = number_of(r);
			next = word == r->expected ? run_at(tree, r->next) : look_up(place, word);
			n_steps += r->n;
		}
		if (end) {
			end->n_steps += n_steps;
			end->n_branches += !next || next->place;
		}
		if (!next) {
			if (end) {
				end->base = base;
				end->read = read;
				end->word = word;
				end->place = place;
				end->kind = kind;
			}
			return 0;
		}
		r = next;
		other = compare(r, base);
		if (!other.expected && r->kind == STACK_ENDS)
			return r->next;
	}
}

static const struct run *root_of(const struct tree *tree, enum root root, uint64_t caller)
{
	const struct run *r = run_at(tree, root == SHORT_ROOT ? tree->roots[place_among(caller, ROOT_BITS)] : 0);
	return r->word == caller ? r : look_up(root, caller);
}

static inline uint32_t descend(enum root root, const struct entered *e, struct end *end)
{
	const struct run *r = root_of(tables.tree, root, *e->sp);
	if (end)
		*end = (struct end){.base = e->sp, .read = e->sp, .word = *e->sp, .place = root, .kind = COMPARE, .n_steps = 1};
	if (!r)
		return 0;
	struct difference other = compare(r, e->sp);
	return !other.expected && r->kind == STACK_ENDS ? r->next : go_on(r, other, e->sp, e, end);
}

uint32_t find_stack(const struct entered *e)
{
	uint32_t site = descend(SHORT_ROOT, e, NULL);
	return site || !has_full ? site : descend(FULL_ROOT, e, NULL);
}

uint32_t find_by_key(const uint64_t *sp)
{
	const struct run *r = look_up(KEY_ROOT, key_of(sp));
	return r && !compare(r, sp).expected ? r->next : 0;
}

static void begin_again(void);

static inline int record_as(const uint64_t *sp, uint32_t site)
{
	if (!site || !note_block((void *)sp[-3], sp[-2], site))
		return 0;
	if (following)
		note_next(following, sp, site);
	if (__builtin_expect(++this_thread->allocations >= FIRST_BEGINNING << BEGINNING_BITS * n_begun, 0) && n_begun < MOST_BEGINNINGS)
		begin_again();
	return 1;
}

static inline int record_found(const struct entered *e, uint32_t site)
{
	if (__builtin_expect(!site && has_full, 0))
		site = descend(FULL_ROOT, e, NULL);
	note_branching(this_thread);
	return record_as(e->sp, site);
}

/* Where the first stack of the caller is another one. */
static __attribute__((noinline)) int record_other(const uint64_t *sp, uint64_t rbp, uint64_t rbx, uint64_t r12, struct difference other)
{
	struct entered e = {sp, rbp, rbx, r12};
	return record_found(&e, go_on(NULL, other, sp, &e, NULL));
}

/* Where more than return addresses tells a stack apart. */
static __attribute__((noinline)) int record_beyond(const uint64_t *sp, uint64_t rbp, uint64_t rbx, uint64_t r12, const struct run *root)
{
	struct entered e = {sp, rbp, rbx, r12};
	return record_found(&e, go_on(root, (struct difference){NULL, NULL}, sp, &e, NULL));
}

static __attribute__((noinline)) int record_by_key(const uint64_t *sp)
{
	return record_as(sp, find_by_key(sp));
}

/* Where the caller's place in the table of roots is another's. */
static __attribute__((noinline)) int record_displaced(const uint64_t *sp, uint64_t rbp, uint64_t rbx, uint64_t r12)
{
	struct entered e = {sp, rbp, rbx, r12};
	if (modules_may_have_changed)
		return 0;
	const struct run *root = root_of(tables.tree, SHORT_ROOT, *sp);
	return record_as(sp, root && root->has_keys ? find_by_key(sp) : find_stack(&e));
}

static inline int record_at_once(struct thread *self, const uint64_t *sp, uint32_t site)
{
	if (__builtin_expect(!note_block((void *)sp[-3], sp[-2], site), 0))
		return 0;
	self->allocations++;
	return 1;
}

/*
 * Most callers are only ever reached by one way: for these, in as few instructions as can be. The block is in sp[-3], its size in sp[-2].
 * Returns 0 where the stack is not known.
 */
int leakline_record_known(const uint64_t *sp, uint64_t rbp, uint64_t rbx, uint64_t r12)
{
#ifdef LEAKLINE_AGENT_SELF_CHECK
	return 0;
#endif
	struct thread *self = this_thread;
	if (__builtin_expect(!self, 0))
		return 0;
	const struct tree *tree = __atomic_load_n(&now, __ATOMIC_ACQUIRE);
	const struct run *r = run_at(tree, tree->roots[place_among(*sp, ROOT_BITS)]);
	if (__builtin_expect(r->word != *sp, 0))
		return record_displaced(sp, rbp, rbx, r12);
	struct difference other = compare(r, sp);
	if (other.expected)
		return r->has_keys ? record_by_key(sp) : record_other(sp, rbp, rbx, r12, other);
	if (r->kind != STACK_ENDS)
		return record_beyond(sp, rbp, rbx, r12, r);
	return record_at_once(self, sp, r->next);
}

/* The same for a thread that follows, and mostly works on much memory: the shadow is fetched while the stack is compared. */
int leakline_record_guessed(const uint64_t *sp, uint64_t rbp, uint64_t rbx, uint64_t r12)
{
	__asm__ volatile("prefetchw (%0)" : : "r"(tables.shadow + (sp[-3] >> 4)));
	struct thread *self = following;
	uint32_t site = self ? follow(self, sp, rbp) : 0;
	if (site)
		return site != WALK_IT && record_at_once(self, sp, site);
	return leakline_record_known(sp, rbp, rbx, r12);
}

void show_stacks(int are_visible)
{
	__atomic_store_n(&now, are_visible ? tables.tree : &nothing, __ATOMIC_SEQ_CST);
}

static struct run *add_run(uint32_t n)
{
	uint64_t words = (sizeof(struct run) + (n + 3) / 4 * sizeof(struct four)) / 8;
	if ((used + words) * 8 > tables.tree_bytes || !room_for(tables.tree, &tree_open, (used + words) * 8))
		return NULL;
	struct run *r = (struct run *)((uint64_t *)tables.tree + used);
	r->n = (uint8_t)n;
	r->n_even = (uint8_t)(n + n % 2);
	used += words;
	return r;
}

static uint64_t distance(const struct trace *t, uint32_t step, const uint64_t *base)
{
	return (uint64_t)((int64_t)(t->places[step] - (uint64_t)base) / 8);
}

/* The steps of a walk from one on: the number of the first run, 0 where there is no room. */
static uint32_t add_steps(const struct trace *t, uint32_t step, const uint64_t *base, const struct entered *e, uint32_t site)
{
	uint32_t first = 0, *link = &first;
	for (;;) {
		uint32_t n = 0;
		while (step + n < t->n_words && t->kinds[step + n] == COMPARE && distance(t, step + n, base) <= UINT16_MAX)
			n++;
		struct run *r = add_run(n);
		if (!r)
			return 0;
		for (uint32_t i = 0; i < r->n_even; i++) {
			uint32_t from = step + (i < n ? i : n - 1);
			r->fours[i / 4].at[i % 4] = (uint16_t)distance(t, from, base);
			r->fours[i / 4].words[i % 4] = t->words[from];
		}
		*link = number_of(r);
		link = &r->next;
		step += n;
		if (step == t->n_words) {
			r->kind = STACK_ENDS;
			r->next = site;
			return first;
		}
		uint64_t away = distance(t, step, base);
		r->kind = away <= UINT16_MAX ? t->kinds[step] : MOVE_BASE;
		if (r->kind == MOVE_BASE) {
			r->expected = away;
			base += away;
			continue;
		}
		r->at = (uint16_t)away;
		r->expected = observe(r->kind, base + away, e, &base);
		step++;
	}
}

static void put_branch(struct branches *all, uint32_t run)
{
	uint64_t hash = hash_of(run_at(tables.tree, run)->place, run_at(tables.tree, run)->word), at = hash & all->mask, both;
	struct branch branch = {(uint32_t)(hash >> 32), run};
	while (all->at[at].run)
		at = (at + 1) & all->mask;
	__builtin_memcpy(&both, &branch, 8);
	__atomic_store_n((uint64_t *)&all->at[at], both, __ATOMIC_RELEASE);
	all->n++;
}

/* An empty table in place of the one there is, which stays: another thread may be reading it. */
static struct branches *add_branches(uint64_t size)
{
	uint64_t bytes = (sizeof(struct branches) + size * sizeof(struct branch) + 4095) & ~4095ull;
	struct branches *added = (struct branches *)((uint8_t *)tables.branches + branches_end);
	if (branches_end + bytes > tables.tree_bytes || !make_accessible(added, bytes))
		return NULL;
	branches_end += bytes;
	added->mask = size - 1;
	return added;
}

static int grow_branches(void)
{
	struct branches *grown = add_branches(branches == &no_branches ? FIRST_BRANCHES : 2 * (branches->mask + 1));
	if (!grown)
		return 0;
	for (uint64_t at = 0; at <= branches->mask; at++)
		if (branches->at[at].run && run_at(tables.tree, branches->at[at].run)->word != NEVER)
			put_branch(grown, branches->at[at].run);
	__atomic_store_n(&branches, grown, __ATOMIC_RELEASE);
	return 1;
}

/*
 * Begin with an empty tree. Where a stack branches off the first one that came, it costs a lookup: those that come first now are more often
 * what the program does all the time than those of its start.
 */
static void begin_again(void)
{
	uint64_t signals;
	lock_records(&signals);
	struct branches *fresh = n_begun < MOST_BEGINNINGS && used * 8 < LEAST_ROOM ? add_branches(branches->mask + 1) : NULL;
	if (fresh) {
		__atomic_store_n(&branches, fresh, __ATOMIC_RELEASE);
		for (uint32_t place = 0; place < 1u << ROOT_BITS; place++)
			__atomic_store_n(&tables.tree->roots[place], 0, __ATOMIC_RELEASE);
	}
	n_begun++;
	unlock_records(&signals);
}

/* The rest of a stack, where it leaves the tree: the number of its run, 0 where there is no room. */
static uint32_t add_stack(const struct trace *t, uint32_t step, const struct end *end, const struct entered *e, uint32_t site)
{
	int has_room = 2 * branches->n < branches->mask || grow_branches();
	uint32_t run = has_room ? add_steps(t, step, end->base, e, site) : 0;
	if (!run)
		return 0;
	struct run *r = (struct run *)run_at(tables.tree, run);
	r->word = end->word;
	r->place = end->place;
	put_branch(branches, run);
	has_full |= end->place == FULL_ROOT;
	if (end->place == SHORT_ROOT)
		__atomic_store_n(&tables.tree->roots[place_among(end->word, ROOT_BITS)], run, __ATOMIC_RELEASE);
	return run;
}

/*
 * Whether a stack can be kept, and there is room: a walk that ended by what a register or a saved one held cannot, as it is not known that
 * what comes behind is memory.
 */
int may_remember(const struct trace *t)
{
	return !t->is_lost && t->kinds[t->n_words - 1] == COMPARE && used * 8 <= LEAST_ROOM + leakline_agent_state.n_sites * ROOM_OF_SITE;
}

/* Keep a stack, under the lock of the records. Returns at how many places it is another one than those that came there first. */
uint32_t remember_stack(const struct trace *t, const struct entered *e, uint32_t site)
{
	struct end end;
	if (!descend(t->is_full ? FULL_ROOT : SHORT_ROOT, e, &end)) {
		uint32_t step = end.n_steps - 1;
		if (step < t->n_words && t->kinds[step] == end.kind && t->places[step] == (uint64_t)end.read && t->words[step] == end.word)
			add_stack(t, end.n_steps, &end, e, site);
	}
	return end.n_branches;
}

/* Whether other stacks of a caller than its first are found by a key. */
void use_keys(uint64_t caller, int has_keys)
{
	const struct run *root = root_of(tables.tree, SHORT_ROOT, caller);
	if (root)
		__atomic_store_n(&((struct run *)root)->has_keys, (uint8_t)has_keys, __ATOMIC_RELEASE);
}

int has_keys(uint64_t caller)
{
	const struct run *root = root_of(tables.tree, SHORT_ROOT, caller);
	return root && root->has_keys;
}

/* Keep a stack that goes on at no register by a key, under the lock. Returns 0 where it cannot be told from another one, or has no room. */
int remember_by_key(const struct trace *t, const struct entered *e, uint32_t site)
{
	for (;;) {
		uint64_t key = key_of(e->sp);
		const struct run *other = look_up(KEY_ROOT, key);
		if (!other)
			return add_stack(t, 0, &(struct end){.base = e->sp, .word = key, .place = KEY_ROOT}, e, site) != 0;
		struct difference difference = compare(other, e->sp);
		if (!difference.expected)
			return 1;
		if (!learn(e->sp, e->sp + *difference.at) || key_of(e->sp) == key)
			return 0;
	}
}

static void drop_word(uint64_t *word, const struct agent_range *gone, size_t n_gone)
{
	for (size_t k = 0; k < n_gone; k++)
		if (is_in(&gone[k], *word))
			__atomic_store_n(word, NEVER, __ATOMIC_RELEASE);
}

/* What lies in modules that are gone is met no more, whatever is loaded in the same place. */
void drop_stacks(const struct agent_range *gone, size_t n_gone)
{
	uint64_t signals;
	lock_records(&signals);
	for (uint64_t number = sizeof(struct tree) / 8; number < used;) {
		struct run *r = (struct run *)run_at(tables.tree, (uint32_t)number);
		drop_word(&r->word, gone, n_gone);
		for (uint32_t i = 0; i < r->n_even; i++)
			drop_word(&r->fours[i / 4].words[i % 4], gone, n_gone);
		number += (sizeof *r + (r->n + 3u) / 4 * sizeof(struct four)) / 8;
	}
	unlock_records(&signals);
}
