/* The malloc family of one process, seen from the kernel: live blocks that were allocated while attached.
 *
 * An entry probe reads the arguments; a return probe reads the result and looks at the caller's stack: by then the callee-saved registers
 * are the caller's again. Where the kernel has sessions (Linux 6.13) one program does both, and a call that is not recorded
 * pays no return. Return probes are on C functions only: on operator new they would break exceptions that it throws. */
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

typedef unsigned long long u64;
typedef unsigned int u32;

enum { CALLER, FRAME_POINTERS, COPIED }; /* how much of the stack */

struct range {
	u64 start;
	u64 length;
};

struct config {
	u64 pid_namespace_device;
	u64 pid_namespace_inode;
	u64 tgid;
	u64 min_size;
	u64 sampled_bytes; /* on average one allocation in so many bytes is recorded; 0: each one */
	u64 stacks;
	struct range code[2]; /* the program's own, and all libraries': what lies there may be a return address */
};

/* What an entry probe's cookie says of the function: where its size is, and where its result. */
enum { FREE, SIZE_FIRST, SIZE_SECOND, PRODUCT, REALLOC, RESULT_STORED };

struct call { /* between entry and return of one thread's allocation, where that does not fit into the session's word */
	u64 size;
	u64 result_at; /* posix_memalign: where it stores the address; 0: in rax */
};

struct allocation {
	u64 size;
	u64 time_ns;
	u64 caller; /* the return address */
	u32 tid;
	u32 stack; /* frame pointers: the stack's id; copied: its place in tops; NO_STACK */
};

enum { NO_STACK = ~0u, COPY_WORDS = 512, CHUNK_WORDS = 16, STACK_REACH = 1 << 20 };

struct top { /* the copied top of a stack, from the caller's frame up; equal ones are kept once */
	u64 sp;
	u64 bp;
	u64 caller;
	u64 words_read;
	u64 preserved[5]; /* rbx, r12 to r15 */
	int stack_id; /* what frame pointers tell of it */
	u32 unused;
	u64 words[COPY_WORDS];
};

enum { ALLOCATED, FREED, LOST, STACKS_LOST, COUNTERS };
enum { MOST_TOPS = 8192 };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct config);
} settings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, u32);
	__type(value, struct call);
} calls SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 20);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u64);
	__type(value, struct allocation);
} allocations SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_STACK_TRACE);
	__uint(max_entries, 16384);
	__uint(key_size, sizeof(u32));
	__uint(value_size, 64 * sizeof(u64));
} stacks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2 * MOST_TOPS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u64);
	__type(value, u32);
} top_of SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MOST_TOPS);
	__type(key, u32);
	__type(value, struct top);
} tops SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u32);
} next_top SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, long);
} until_sample SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, u32);
	__type(value, u64);
} counters SEC(".maps");

extern bool bpf_session_is_return(void) __ksym __weak;
extern __u64 *bpf_session_cookie(void) __ksym __weak;

static __always_inline void count(u32 which)
{
	u64 *counter = bpf_map_lookup_elem(&counters, &which);
	if (counter)
		*counter += 1;
}

/* The thread's id if it belongs to the target (a forked child keeps the probes until it meets one), else 0. */
static __always_inline u32 target_thread(struct config **config)
{
	u32 zero = 0;
	struct bpf_pidns_info thread;
	*config = bpf_map_lookup_elem(&settings, &zero);
	if (!*config || bpf_get_ns_current_pid_tgid((*config)->pid_namespace_device, (*config)->pid_namespace_inode, &thread, sizeof(thread)))
		return 0;
	return thread.tgid == (*config)->tgid ? thread.pid : 0;
}

static __always_inline void forget(u64 address)
{
	if (address && !bpf_map_delete_elem(&allocations, &address))
		count(FREED);
}

/* Intervals are uniform over 0 to twice the mean: the rate is right, and no period of the program's can hide. */
static __always_inline bool is_sampled(const struct config *config, u64 size)
{
	u32 zero = 0;
	long *left = bpf_map_lookup_elem(&until_sample, &zero);
	if (!left)
		return false;
	*left -= size;
	if (*left > 0)
		return false;
	*left = ((u64)bpf_get_prandom_u32() * config->sampled_bytes * 2) >> 32;
	return true;
}

/* Whether this allocation is recorded; then its size, and where its address will be stored, if not in rax. */
static __always_inline bool enter(struct pt_regs *ctx, u64 function, struct config *config, struct call *call)
{
	u64 first = PT_REGS_PARM1(ctx), second = PT_REGS_PARM2(ctx);
	call->size = first;
	call->result_at = 0;
	switch (function) {
	case FREE:
		forget(first);
		return false;
	case SIZE_SECOND:
		call->size = second;
		break;
	case PRODUCT:
		call->size = first * second;
		break;
	case REALLOC:
		/* The old block is forgotten on entry: by the return another thread may have got its address. */
		if (!config->sampled_bytes)
			forget(first);
		call->size = second;
		if (!second)
			return false;
		break;
	case RESULT_STORED:
		call->size = PT_REGS_PARM3(ctx);
		call->result_at = first;
	}
	if (call->size < config->min_size)
		return false;
	return !config->sampled_bytes || is_sampled(config, call->size);
}

/* What tells one stack from another: its words that point to code or into the stack itself, and where they stand. */
static __always_inline u64 mixed(u64 hash, u64 word, u64 sp, const struct config *config)
{
	u64 own = word - sp;
	u64 seen = own < STACK_REACH ? own + 1 : 0;
	seen = word - config->code[0].start < config->code[0].length ? word : seen;
	seen = word - config->code[1].start < config->code[1].length ? word : seen;
	return (hash ^ seen) * 0x9e3779b97f4a7c15ull;
}

static __always_inline u32 copied_stack(struct pt_regs *ctx, const struct config *config)
{
	u64 sp = PT_REGS_SP(ctx), bp = PT_REGS_FP(ctx), caller = PT_REGS_IP(ctx);
	u64 hash = mixed(caller * 0xff51afd7ed558ccdull, bp, sp, config);
	u64 chunk[CHUNK_WORDS];
	u32 read = 0, zero = 0;
	hash = mixed(mixed(hash, ctx->rbx, sp, config), ctx->r12, sp, config);
	hash = mixed(mixed(mixed(hash, ctx->r13, sp, config), ctx->r14, sp, config), ctx->r15, sp, config);
	for (u32 at = 0; at < COPY_WORDS; at += CHUNK_WORDS) {
		/* Near the end of the stack there is less. */
		if (bpf_probe_read_user(chunk, sizeof(chunk), (void *)(sp + at * sizeof(u64))))
			break;
#pragma unroll
		for (int i = 0; i < CHUNK_WORDS; i++)
			hash = mixed(hash, chunk[i], sp, config);
		hash ^= hash >> 29;
		read = at + CHUNK_WORDS;
	}
	u32 *known = bpf_map_lookup_elem(&top_of, &hash);
	if (known)
		return *known;
	u32 *next = bpf_map_lookup_elem(&next_top, &zero);
	u32 place = next && *next < MOST_TOPS ? __sync_fetch_and_add(next, 1) : MOST_TOPS;
	struct top *top = bpf_map_lookup_elem(&tops, &place);
	if (!top) {
		count(STACKS_LOST);
		return NO_STACK;
	}
	top->sp = sp;
	top->bp = bp;
	top->caller = caller;
	top->preserved[0] = ctx->rbx;
	top->preserved[1] = ctx->r12;
	top->preserved[2] = ctx->r13;
	top->preserved[3] = ctx->r14;
	top->preserved[4] = ctx->r15;
	top->stack_id = bpf_get_stackid(ctx, &stacks, BPF_F_USER_STACK);
	if (read == COPY_WORDS) {
		bpf_probe_read_user(top->words, sizeof(top->words), (void *)sp);
	} else {
		for (u32 at = 0; at < COPY_WORDS; at += CHUNK_WORDS) {
			if (at >= read)
				break;
			bpf_probe_read_user(&top->words[at], CHUNK_WORDS * sizeof(u64), (void *)(sp + at * sizeof(u64)));
		}
	}
	top->words_read = read;
	bpf_map_update_elem(&top_of, &hash, &place, BPF_ANY);
	return place;
}

static __always_inline int leave(struct pt_regs *ctx, const struct config *config, u32 tid, const struct call *call)
{
	struct allocation allocation = {
		.size = call->size, .time_ns = bpf_ktime_get_ns(), .caller = PT_REGS_IP(ctx), .tid = tid, .stack = NO_STACK};
	u64 address = PT_REGS_RC(ctx);
	if (call->result_at) {
		u64 stored = 0;
		if (!address)
			bpf_probe_read_user(&stored, sizeof(stored), (void *)call->result_at);
		address = stored;
	}
	if (!address)
		return 0;
	if (config->stacks == FRAME_POINTERS)
		allocation.stack = bpf_get_stackid(ctx, &stacks, BPF_F_USER_STACK);
	else if (config->stacks == COPIED)
		allocation.stack = copied_stack(ctx, config);
	if (bpf_map_update_elem(&allocations, &address, &allocation, BPF_ANY))
		count(LOST);
	else
		count(ALLOCATED);
	return 0;
}

static __always_inline int remember(u32 tid, const struct call *call)
{
	if (!bpf_map_update_elem(&calls, &tid, call, BPF_ANY))
		return 0;
	count(LOST);
	return 1;
}

static __always_inline int recall(struct pt_regs *ctx)
{
	struct config *config;
	u32 tid = target_thread(&config);
	struct call *found = tid ? bpf_map_lookup_elem(&calls, &tid) : NULL;
	if (!found)
		return 0;
	struct call call = *found;
	bpf_map_delete_elem(&calls, &tid);
	return leave(ctx, config, tid, &call);
}

/* Entry and return in one: uprobe_session. A result of 1 on entry skips the return. */
SEC("uprobe/session")
int on_session(struct pt_regs *ctx)
{
	struct config *config;
	struct call call;
	u64 *kept = bpf_session_cookie();
	u32 tid = target_thread(&config);
	if (!tid)
		return 1;
	if (bpf_session_is_return()) {
		call.size = *kept;
		call.result_at = 0;
		return call.size == ~0ull ? recall(ctx) : leave(ctx, config, tid, &call);
	}
	if (!enter(ctx, bpf_get_attach_cookie(ctx), config, &call))
		return 1;
	*kept = call.size;
	if (call.result_at) {
		*kept = ~0ull;
		return remember(tid, &call);
	}
	return 0;
}

SEC("uprobe")
int on_entry(struct pt_regs *ctx)
{
	struct config *config;
	struct call call;
	u32 tid = target_thread(&config);
	if (tid && enter(ctx, bpf_get_attach_cookie(ctx), config, &call))
		remember(tid, &call);
	return 0;
}

SEC("uretprobe")
int on_return(struct pt_regs *ctx)
{
	return recall(ctx);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
