/* The malloc family of one process, seen from the kernel: every live block that was allocated while attached.
 * Entry probes read the arguments and the caller's address from [rsp]; return probes read the result.
 * Return probes are on C functions only: on operator new they would break exceptions that it throws. */
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

typedef unsigned long long u64;
typedef unsigned int u32;

struct config {
	u64 pid_namespace_device;
	u64 pid_namespace_inode;
	u64 tgid;
	u64 min_size;
};

enum { STACK_WORDS = 32 };

struct entry { /* the registers and the top of the stack at the function's first instruction: the first word is the caller */
	u64 sp;
	u64 bp;
	u64 words[STACK_WORDS];
};

struct call { /* between entry and return of one thread's allocation */
	u64 size;
	u64 result_at; /* posix_memalign: where it stores the address; 0: in rax */
	struct entry entry;
};

struct allocation {
	u64 size;
	u64 time_ns;
	u32 tid;
	int stack_id;
	struct entry entry;
};

enum { ALLOCATED, FREED, LOST, COUNTERS };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct config);
} settings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u32);
	__type(value, struct call);
} calls SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 524288);
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
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, u32);
	__type(value, u64);
} counters SEC(".maps");

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

static __always_inline int enter(struct pt_regs *ctx, u64 size, u64 result_at)
{
	struct config *config;
	u32 tid = target_thread(&config);
	struct call call = {.size = size, .result_at = result_at};
	if (!tid || size < config->min_size)
		return 0;
	call.entry.sp = PT_REGS_SP(ctx);
	call.entry.bp = PT_REGS_FP(ctx);
	/* Near the end of the stack there is less than that. */
	if (bpf_probe_read_user(call.entry.words, sizeof(call.entry.words), (void *)call.entry.sp))
		bpf_probe_read_user(call.entry.words, sizeof(u64), (void *)call.entry.sp);
	if (bpf_map_update_elem(&calls, &tid, &call, BPF_ANY))
		count(LOST);
	return 0;
}

static __always_inline void forget(u64 address)
{
	if (address && !bpf_map_delete_elem(&allocations, &address))
		count(FREED);
}

SEC("uprobe")
int on_malloc(struct pt_regs *ctx)
{
	return enter(ctx, PT_REGS_PARM1(ctx), 0);
}

SEC("uprobe")
int on_calloc(struct pt_regs *ctx)
{
	return enter(ctx, PT_REGS_PARM1(ctx) * PT_REGS_PARM2(ctx), 0);
}

/* The old block is forgotten on entry: by the return another thread may have got its address. */
SEC("uprobe")
int on_realloc(struct pt_regs *ctx)
{
	struct config *config;
	if (target_thread(&config))
		forget(PT_REGS_PARM1(ctx));
	return PT_REGS_PARM2(ctx) ? enter(ctx, PT_REGS_PARM2(ctx), 0) : 0;
}

SEC("uprobe")
int on_memalign(struct pt_regs *ctx)
{
	return enter(ctx, PT_REGS_PARM2(ctx), 0);
}

SEC("uprobe")
int on_posix_memalign(struct pt_regs *ctx)
{
	return enter(ctx, PT_REGS_PARM3(ctx), PT_REGS_PARM1(ctx));
}

SEC("uprobe")
int on_free(struct pt_regs *ctx)
{
	struct config *config;
	if (target_thread(&config))
		forget(PT_REGS_PARM1(ctx));
	return 0;
}

SEC("uretprobe")
int on_return(struct pt_regs *ctx)
{
	struct config *config;
	u32 tid = target_thread(&config);
	if (!tid)
		return 0;
	struct call *call = bpf_map_lookup_elem(&calls, &tid);
	if (!call)
		return 0;
	struct allocation allocation = {.size = call->size, .entry = call->entry, .tid = tid, .time_ns = bpf_ktime_get_ns()};
	u64 address = PT_REGS_RC(ctx);
	if (call->result_at) {
		u64 stored = 0;
		if (!address)
			bpf_probe_read_user(&stored, sizeof(stored), (void *)call->result_at);
		address = stored;
	}
	bpf_map_delete_elem(&calls, &tid);
	if (!address)
		return 0;
	allocation.stack_id = bpf_get_stackid(ctx, &stacks, BPF_F_USER_STACK);
	if (bpf_map_update_elem(&allocations, &address, &allocation, BPF_ANY))
		count(LOST);
	else
		count(ALLOCATED);
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
