/* The agent: preloaded into a program, it notes for every allocation which stack made it, and how many bytes it asked for. */
#ifndef LEAKLINE_AGENT_H
#define LEAKLINE_AGENT_H

#include <stddef.h>
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))

/* What the parent reads from outside; the Python side has the same layout. */
#define AGENT_MAGIC 0x656e696c6b61656cull /* "leakline" */
#define AGENT_VERSION 4
#define AGENT_OWN 32

enum agent_phase { AGENT_STARTING, AGENT_RECORDING, AGENT_WAITING, AGENT_OFF };
enum agent_site_flag { AGENT_OUTERMOST = 1 }; /* the outermost frame was reached */

struct agent_range {
	uint64_t start, end;
};

/* A place for an address among 2^bits (Knuth, The Art of Computer Programming, volume 3, 6.4: multiplicative hashing). */
static inline uint64_t place_among(uint64_t address, unsigned bits)
{
	return address * 0x9e3779b97f4a7c15ull >> (64 - bits);
}

static inline int is_in(const struct agent_range *range, uint64_t address)
{
	return address - range->start < range->end - range->start;
}

struct agent_site {
	uint32_t first_frame;
	uint16_t n_frames;
	uint16_t flags;
	uint32_t hash_low, hash_high;
};

struct agent_state {
	uint64_t magic;
	uint32_t version;
	uint32_t phase;
	uint64_t shadow;           /* uint32_t per 16 bytes of address space: [a >> 4] is the site, [(a >> 4) + 1] the size asked for */
	uint64_t sites, n_sites;   /* struct agent_site[], the first one unused */
	uint64_t frames, n_frames; /* uint64_t[]: return addresses, that of malloc's caller first */
	uint64_t allocations, memo_hits, memo_misses, truncated;
	int32_t waiting_tid;
	int32_t exit_status; /* what it will exit with; -1: not known */
	uint64_t waiting_sp; /* of the waiting thread, before it changed to the agent's own stack; in exit's handlers, that of exit's caller */
	uint64_t waiting_registers[6]; /* rbx rbp r12 r13 r14 r15, of the same */
	struct agent_range own[AGENT_OWN]; /* memory of the agent, which holds no pointers of the program's */
	uint64_t n_own;
	uint64_t shadow_enabled; /* bytes of the shadow that can be read */
	char why_off[128];
	uint64_t threads; /* struct thread[MOST_THREADS]: what the sums above are made of at the end */
	uint64_t forked;  /* it has not started a program of its own yet */
	/* Where there is no shadow: struct slot[], in levels that lie one behind the other, each twice as long as the one before it. */
	uint64_t table;
	uint64_t first_slots; /* of the first level */
	uint32_t table_levels;
	uint32_t other_allocator; /* not glibc's: nothing can be said of what is not allocated by the functions of the C library */
	uint64_t unloaded, n_unloaded; /* struct unloaded[] */
	uint64_t modules, n_modules;   /* struct module[], as they were when they were last looked at */
	uint64_t names, names_size;    /* the paths in both, each with a 0 behind it; at 0 none */
	uint64_t usable_sizes;         /* the program asks for them: it may use more of a block than it asked for */
};

/*
 * The code of a module that is no longer there, of which sites below n_sites have frames, unless an earlier one of these was in its place
 * when they were made.
 */
struct unloaded {
	uint64_t start, end;
	uint64_t offset; /* of its start in the file */
	uint32_t n_sites;
	uint32_t name; /* where in `names` */
	uint32_t build_id_size;
	uint8_t build_id[20];
};

struct slot {
	uint64_t address; /* of a live block, 0 if it is free */
	uint64_t pair;	  /* as in the shadow */
};

#define UNKNOWN_SIZE 0xffffffffu

extern struct agent_state leakline_agent_state;

/* The registers that a call preserves, as they were when an interposed function was entered; entry.c pushes them in this order. */
struct registers {
	uint64_t rbx, rbp, r12, r13, r14, r15;
};

/* Every allocating function, either glibc's own or that of the library that would serve the program without us. */
struct allocator {
	void *(*malloc)(size_t);
	void *(*calloc)(size_t, size_t);
	void *(*realloc)(void *, size_t);
	void *(*memalign)(size_t, size_t);
	void *(*aligned_alloc)(size_t, size_t);
	void *(*valloc)(size_t);
	void *(*pvalloc)(size_t);
	int (*posix_memalign)(void **, size_t, size_t);
	void *(*reallocarray)(void *, size_t, size_t);
};
extern struct allocator leakline_real; /* entry.c's assembly knows its layout */
extern void (*leakline_real_free)(void *);
extern size_t (*leakline_real_usable_size)(void *);

/* entry.c calls the last where the one before answers 0, which of the others depends on whether any thread follows. */
extern int (*leakline_record_quickly)(const uint64_t *sp, uint64_t rbp, uint64_t rbx, uint64_t r12);
int leakline_record_known(const uint64_t *sp, uint64_t rbp, uint64_t rbx, uint64_t r12);
int leakline_record_guessed(const uint64_t *sp, uint64_t rbp, uint64_t rbx, uint64_t r12);
void leakline_record(void *block, size_t size, const struct registers *registers, const uint64_t *sp);

/* start.c */
void start_recording(void);

/* entry.c */
extern const struct allocator libc_allocator;

/* memory.c: the reservation, and what is carved out of it. */
struct tables {
	uint32_t *shadow;
	uint8_t *shadow_steps; /* per step of the shadow: enum step */
	struct thread *threads;
	struct tree *tree;
	struct branches *branches;
	struct hint *hints;
	uint64_t *signatures;
	uint32_t *signatures_of; /* the newest of a site */
	struct rule *rules;
	struct full_rule *full_rules;
	struct module *modules;
	struct unloaded *unloaded;
	char *names;
	struct agent_site *sites;
	uint64_t *frames;
	uint32_t *indices; /* the hash tables of sites, each twice as long as the one before it */
	uint8_t *stack;    /* of the last check */
	struct slot *blocks; /* without a shadow */
	uint8_t *block_tags;
	uint64_t most_blocks, most_sites, most_frames, tree_bytes, signatures_bytes;
};
extern struct tables tables;
extern uint64_t reserved_bytes;
int reserve_memory(int with_shadow);
int make_accessible(void *start, size_t size);
int room_for(void *table, uint64_t *open, uint64_t bytes);
int may_read(uint64_t address, size_t size);
#define OWN_STACK (128u << 10)

/* shadow.c */
enum step { STEP_CLOSED, STEP_OPEN, STEP_REFUSED };
#define SHADOW_STEP_SHIFT 24 /* of the address space: a step is 4 MiB of shadow */

int note_block_elsewhere(uint64_t address, uint64_t pair); /* the shadow is not open there, or there is none */

static inline int note_block(void *block, size_t size, uint32_t site)
{
	uint64_t address = (uint64_t)block, pair = site | (uint64_t)(size < UNKNOWN_SIZE ? size : UNKNOWN_SIZE) << 32;
	if (__builtin_expect(tables.shadow_steps[address >> SHADOW_STEP_SHIFT] != STEP_OPEN, 0))
		return note_block_elsewhere(address, pair);
	__builtin_memcpy(tables.shadow + (address >> 4), &pair, 8);
	return 1;
}

/* table.c */
int put_block(uint64_t address, uint64_t pair);
void use_table(void);

/* threads.c */
struct thread { /* counters of a thread, and of ended ones whose place it has taken; on a cache line of its own */
	uint64_t allocations, misses, truncated;
	uint32_t tid;
	/* follow.c: */
	uint32_t last, last_sp;	    /* the signature of the last stack, and the lower half of where it was */
	uint32_t since;		    /* that many allocations (lower half) it counts */
	uint64_t low, top;	    /* what was walked of its own stack: from the lowest stack pointer to the outermost word */
	uint16_t branchings, wrong, pause;
	uint8_t failures, walks;
};
#define MOST_THREADS 1024
extern __thread struct thread *this_thread;
struct thread *adopt_thread(void);
void forget_other_threads(void);
void sum_counters(void);

/* sites.c */
#define MOST_FRAMES 64
uint32_t find_site(const uint64_t *frames, uint32_t n, uint64_t hash, uint16_t flags);
uint32_t add_site(const uint64_t *frames, uint32_t n, uint64_t hash, uint16_t flags);
int passes_through(const struct agent_site *site, const struct agent_range *gone, size_t n_gone, uint8_t *are_met);
uint32_t drop_sites(const struct agent_range *gone, size_t n_gone, uint8_t *are_met);
void lock_records(uint64_t *signals);
void unlock_records(const uint64_t *signals);
void reset_records_lock(void);

/* tree.c */
void show_stacks(int are_visible);
void drop_stacks(const struct agent_range *gone, size_t n_gone);

/* follow.c */
void note_first_stack(const void *behind);
void drop_signatures(const struct agent_range *gone, size_t n_gone);

/* modules.c */
struct module {
	uint64_t start, end, frame_header, identity;
	struct unloaded code; /* its first executable segment, for when it is unloaded */
	int seen;
	int pad;
};
#define MOST_MODULES 32768
#define MOST_UNLOADED 16384
#define NAMES_BYTES (256u << 10)
extern uint32_t modules_may_have_changed;
extern uint32_t code_outside; /* stacks end in code of no module that is known: one may be loaded there */
void doubt_modules(void);
extern uint64_t module_generation; /* counts changes of what lies at an address: what was learned before one may be wrong */
void find_loader(void);
void refresh_modules(void);
int is_in_loader(uint64_t ip);
uint64_t find_frame_header(uint64_t ip);
void reset_modules_lock(void);
extern int (*dl_find_object)(void *, void *); /* glibc 2.35 */

/* symbols.c: dlsym(3) lies in libdl before glibc 2.34, and may allocate. */
struct definition {
	const char *name;
	void *address;   /* of the first one behind this library, as RTLD_NEXT */
	uint64_t size;   /* of its code */
	int is_in_front; /* a module before this library defines it too, and is the one that the program uses */
	const char *module; /* that of the one that the program uses */
};
void find_definitions(struct definition *wanted, size_t n);

/* exit.c */
extern void (*real_abort)(void);
extern void (*real_quick_exit)(int);
extern struct agent_range exit_functions[2];
void set_up_exit(char **environment);
char *put_text(char *to, const char *text);
char *put_number(char *to, uint64_t number, uint64_t base);
int is_to_follow(int is_child);
long root_process(void);

/* environment.c */
void hide_from_environment(char **initial);

#ifdef LEAKLINE_AGENT_SELF_CHECK
void print_check(void);
#endif

#endif
