/*
 * Tells the parent that a process has started, and lets it look at the memory before the process ends.
 *
 * The handler of exit(3) is registered without a module, in the constructor: it runs after every destructor, also those of libraries.
 * The thread waits on a stack of the agent's, so that nothing changes on its own one while the parent reads it.
 */
#define _GNU_SOURCE
#include "../unwind/unwind.h"
#include "syscalls.h"

#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

extern int __cxa_atexit(void (*)(void *), void *, void *);
extern int __cxa_at_quick_exit(void (*)(void *), void *);
extern int __register_atfork(void (*)(void), void (*)(void), void (*)(void), void *);

void (*real_abort)(void);
void (*real_quick_exit)(int);
struct agent_range exit_functions[2]; /* exit and quick_exit, which call handlers */

enum follow { FOLLOW_ALL, FOLLOW_EXEC, FOLLOW_NONE };
enum asked { NOT_ASKED, ASKING, ASKED };

static struct sockaddr_un address; /* no path: nobody asks */
static uint64_t patience_ns = 60000000000ull;
static enum follow follow;
static long root; /* process that was started as the first of all; 0: not known */
static long own_pid;
static int is_fork_child;
static uint32_t asked; /* enum asked */
static uint32_t asking_tid;

/* entry.c's counterpart: calls the next function with the registers that it was called with. */
void leakline_ask(int status, int is_handler);
void leakline_ask_with(int status, int is_handler, struct registers *registers, uint64_t sp);
void leakline_call_on_stack(void *stack_end, void (*function)(void));

__asm__(".text\n"
	".globl leakline_ask\n"
	".hidden leakline_ask\n"
	".type leakline_ask, @function\n"
	"leakline_ask:\n"
	".cfi_startproc\n"
	"endbr64\n"
	"movq %rsp, %rcx\n"
	"pushq %r15\n"
	"pushq %r14\n"
	"pushq %r13\n"
	"pushq %r12\n"
	"pushq %rbp\n"
	"pushq %rbx\n"
	".cfi_adjust_cfa_offset 48\n"
	"movq %rsp, %rdx\n"
	"subq $8, %rsp\n"
	".cfi_adjust_cfa_offset 8\n"
	"call leakline_ask_with\n"
	"addq $56, %rsp\n"
	".cfi_adjust_cfa_offset -56\n"
	"ret\n"
	".cfi_endproc\n"
	".size leakline_ask, . - leakline_ask\n"

	".globl leakline_call_on_stack\n"
	".hidden leakline_call_on_stack\n"
	".type leakline_call_on_stack, @function\n"
	"leakline_call_on_stack:\n"
	".cfi_startproc\n"
	"endbr64\n"
	"pushq %rbp\n"
	".cfi_def_cfa_offset 16\n"
	".cfi_offset %rbp, -16\n"
	"movq %rsp, %rbp\n"
	".cfi_def_cfa_register %rbp\n"
	"movq %rdi, %rsp\n"
	"call *%rsi\n"
	"movq %rbp, %rsp\n"
	"popq %rbp\n"
	".cfi_def_cfa %rsp, 8\n"
	"ret\n"
	".cfi_endproc\n"
	".size leakline_call_on_stack, . - leakline_call_on_stack\n");

static uint64_t now(void)
{
	struct timespec time;
	syscall_3(SYS_clock_gettime, CLOCK_MONOTONIC, (long)&time, 0);
	return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static void sleep_for(uint64_t ns)
{
	struct timespec time = {(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
	syscall_3(SYS_nanosleep, (long)&time, 0, 0);
}

char *put_text(char *to, const char *text)
{
	while (*text)
		*to++ = *text++;
	return to;
}

char *put_number(char *to, uint64_t number, uint64_t base)
{
	char digits[24], *at = digits + sizeof digits;
	do
		*--at = "0123456789abcdef"[number % base];
	while (number /= base);
	while (at < digits + sizeof digits)
		*to++ = *at++;
	return to;
}

/* "<what> <pid> <tid> <address of the state>\n" */
static size_t write_line(char *line, const char *what)
{
	char *to = put_text(line, what);
	*to++ = ' ';
	to = put_number(to, (uint64_t)syscall_0(SYS_getpid), 10);
	*to++ = ' ';
	to = put_number(to, (uint64_t)syscall_0(SYS_gettid), 10);
	*to++ = ' ';
	to = put_number(to, (uint64_t)&leakline_agent_state, 16);
	*to++ = '\n';
	return (size_t)(to - line);
}

/* Returns a connected socket, or a negative errno; a full backlog (EAGAIN) is waited for. */
static long connect_until(uint64_t deadline)
{
	long fd = syscall_3(SYS_socket, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	long result = fd;
	while (fd >= 0) {
		result = syscall_3(SYS_connect, fd, (long)&address, sizeof address);
		if (!result)
			return fd;
		if ((result != -11 && result != -4) || now() >= deadline) /* EAGAIN, EINTR */
			break;
		sleep_for(5000000);
	}
	if (fd >= 0)
		syscall_3(SYS_close, fd, 0, 0);
	return result;
}

static int send_line(long fd, const char *what)
{
	char line[96];
	size_t size = write_line(line, what);
	return syscall_6(SYS_sendto, fd, (long)line, (long)size, MSG_NOSIGNAL | MSG_DONTWAIT, 0, 0) == (long)size;
}

static void say_start(void)
{
	if (!address.sun_path[0])
		return;
	long fd = connect_until(now() + 20000000);
	if (fd < 0)
		return;
	send_line(fd, "start");
	syscall_3(SYS_close, fd, 0, 0);
}

/* Wait for a byte, or that the other side closes; a signal that was not blocked ends a poll, not the wait. */
static void wait_for_answer(long fd, uint64_t deadline)
{
	for (;;) {
		uint64_t time = now();
		if (time >= deadline)
			return;
		struct pollfd event = {.fd = (int)fd, .events = POLLIN};
		struct timespec left = {(time_t)((deadline - time) / 1000000000), (long)((deadline - time) % 1000000000)};
		long n = syscall_6(SYS_ppoll, (long)&event, 1, (long)&left, 0, 8, 0);
		if (n == -4) /* EINTR */
			continue;
		return; /* the byte, its end, an error, or the time is over */
	}
}

static void ask_parent(void)
{
	uint64_t deadline = now() + patience_ns;
	long fd = connect_until(deadline);
	if (fd < 0)
		return;
	if (send_line(fd, "exit"))
		wait_for_answer(fd, deadline);
	syscall_3(SYS_close, fd, 0, 0);
}

struct kernel_action { /* struct kernel_sigaction, arch/x86/include/asm */
	void (*handler)(int);
	unsigned long flags;
	void (*restorer)(void);
	uint64_t mask;
};

/* A handler would change what the parent reads. Signals without one still do what they do: end the process, most of them. */
static uint64_t handled_signals(void)
{
	uint64_t handled = 0, faults = 1ull << (SIGSEGV - 1) | 1ull << (SIGBUS - 1) | 1ull << (SIGFPE - 1) | 1ull << (SIGILL - 1);
	for (int number = 1; number <= 64; number++) {
		struct kernel_action action = {.handler = SIG_DFL};
		syscall_4(SYS_rt_sigaction, number, 0, (long)&action, 8);
		if (action.handler != SIG_DFL && action.handler != SIG_IGN)
			handled |= 1ull << (number - 1);
	}
	return handled & ~faults;
}

/* Whether the calling thread is the one to ask. Another that comes meanwhile waits: its exit would end the first one's. */
static int is_first(void)
{
	uint32_t expected = NOT_ASKED, tid = (uint32_t)syscall_0(SYS_gettid);
	if (__atomic_compare_exchange_n(&asked, &expected, ASKING, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
		asking_tid = tid;
		return 1;
	}
	uint64_t deadline = now() + patience_ns;
	while (expected == ASKING && tid != asking_tid && now() < deadline) {
		struct timespec time = {0, 100000000};
		syscall_4(SYS_futex, (long)&asked, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, ASKING, (long)&time);
		expected = __atomic_load_n(&asked, __ATOMIC_ACQUIRE);
	}
	return 0;
}

static int may_ask(void)
{
	long pid = syscall_0(SYS_getpid);
	if (!address.sun_path[0] || pid != own_pid) /* as in a child of vfork, which shares this memory */
		return 0;
	return !(follow == FOLLOW_NONE && root && pid != root) && !(follow == FOLLOW_EXEC && is_fork_child);
}

/*
 * A handler of exit runs where the functions that have returned had their stack, and what they left in it shows between the words of
 * exit's own frames. Who called exit may still use what is above them.
 */
void leakline_ask_with(int status, int is_handler, struct registers *registers, uint64_t sp)
{
	struct agent_state *state = &leakline_agent_state;
	if (state->phase == AGENT_RECORDING)
		sum_counters();
#ifdef LEAKLINE_AGENT_SELF_CHECK
	print_check();
#endif
	if (!may_ask() || !is_first())
		return;
	uint64_t blocked = handled_signals(), before;
	uint32_t phase = state->phase;
	syscall_4(SYS_rt_sigprocmask, SIG_BLOCK, (long)&blocked, (long)&before, 8);
	state->waiting_tid = (int32_t)syscall_0(SYS_gettid);
	state->exit_status = status;
	if (is_handler && phase == AGENT_RECORDING)
		leave_functions(exit_functions, 2, registers, &sp);
	state->waiting_sp = sp;
	memcpy(state->waiting_registers, registers, sizeof *registers);
	if (phase == AGENT_RECORDING) {
		__atomic_store_n(&state->phase, AGENT_WAITING, __ATOMIC_SEQ_CST);
		leakline_call_on_stack(tables.stack + OWN_STACK, ask_parent);
	} else {
		ask_parent(); /* there is no other stack, nor anything to read */
	}
	__atomic_store_n(&state->phase, phase, __ATOMIC_RELEASE);
	state->waiting_tid = 0;
	__atomic_store_n(&asked, ASKED, __ATOMIC_RELEASE);
	syscall_3(SYS_futex, (long)&asked, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, INT32_MAX);
	syscall_4(SYS_rt_sigprocmask, SIG_SETMASK, (long)&before, 0, 8);
}

/* glibc passes the status behind the argument (stdlib/exit.c, since 2.0). */
static void at_exit(void *unused, int status)
{
	(void)unused;
	leakline_ask(status & 255, 1);
}

EXPORT _Noreturn void _exit(int status)
{
	leakline_ask(status & 255, 0);
	for (;;)
		syscall_3(SYS_exit_group, status, 0, 0);
}

EXPORT _Noreturn void _Exit(int status)
{
	_exit(status);
}

EXPORT _Noreturn void quick_exit(int status)
{
	if (real_quick_exit)
		real_quick_exit(status); /* at_exit is among its handlers */
	_exit(status);
}

#define ACTION_HAS_RESTORER 0x04000000ul /* arch/x86/include/uapi/asm/signal.h */

void leakline_return_from_signal(void);
__asm__(".text\n"
	".globl leakline_return_from_signal\n"
	".hidden leakline_return_from_signal\n"
	".type leakline_return_from_signal, @function\n"
	"leakline_return_from_signal:\n"
	"movl $15, %eax\n" /* rt_sigreturn */
	"syscall\n"
	".size leakline_return_from_signal, . - leakline_return_from_signal\n");

/*
 * glibc aborts without calling abort(3) by its name: a failed assertion, a damaged heap, an overrun buffer. The signal is not blocked any
 * more when this has returned, and then ends the process where it was.
 */
static void on_abort(int number)
{
	struct kernel_action action = {.handler = SIG_DFL};
	leakline_ask(-1, 0);
	syscall_4(SYS_rt_sigaction, number, (long)&action, 0, 8);
	syscall_3(SYS_tgkill, syscall_0(SYS_getpid), syscall_0(SYS_gettid), number);
}

/* Whether a SIGABRT would end the process. */
static int is_deadly(void)
{
	struct kernel_action action = {.handler = SIG_DFL};
	syscall_4(SYS_rt_sigaction, SIGABRT, 0, (long)&action, 8);
	return action.handler == SIG_DFL || action.handler == on_abort;
}

static void watch_aborts(void)
{
	struct kernel_action action = {on_abort, ACTION_HAS_RESTORER | SA_ONSTACK | SA_RESTART, leakline_return_from_signal, 0};
	if (address.sun_path[0] && is_deadly())
		syscall_4(SYS_rt_sigaction, SIGABRT, (long)&action, 0, 8);
}

/* Where the program handles SIGABRT it may go on. */
EXPORT _Noreturn void abort(void)
{
	if (is_deadly())
		leakline_ask(-1, 0);
	if (real_abort)
		real_abort();
	for (;;)
		__builtin_trap();
}

static void after_fork(void)
{
	own_pid = syscall_0(SYS_getpid);
	is_fork_child = 1;
	asked = NOT_ASKED;
	leakline_agent_state.waiting_tid = 0;
	leakline_agent_state.forked = 1;
	if (leakline_agent_state.phase != AGENT_OFF) {
		leakline_agent_state.phase = AGENT_RECORDING;
		forget_other_threads();
		reset_records_lock();
		reset_modules_lock();
	}
	if (follow != FOLLOW_NONE)
		say_start();
}

/* Whether a program that is started from here, in this process or in a child, is to take the agent along. */
int is_to_follow(int is_child)
{
	return address.sun_path[0] && (follow != FOLLOW_NONE || (!is_child && syscall_0(SYS_getpid) == root));
}

long root_process(void)
{
	return root;
}

static const char *value_of(char **environment, const char *name)
{
	size_t length = strlen(name);
	for (; environment && *environment; environment++)
		if (!strncmp(*environment, name, length) && (*environment)[length] == '=')
			return *environment + length + 1;
	return NULL;
}

static uint64_t number(const char *text, uint64_t otherwise)
{
	uint64_t value = 0;
	if (!text || !*text)
		return otherwise;
	for (; *text; text++) {
		if (*text < '0' || *text > '9' || value > 1000000000)
			return otherwise;
		value = value * 10 + (uint64_t)(*text - '0');
	}
	return value;
}

void set_up_exit(char **environment)
{
	const char *path = value_of(environment, "LEAKLINE_AGENT_SOCKET"), *children = value_of(environment, "LEAKLINE_AGENT_FOLLOW");
	if (path && *path && strlen(path) < sizeof address.sun_path) {
		address.sun_family = AF_UNIX;
		memcpy(address.sun_path, path, strlen(path) + 1);
	}
	patience_ns = number(value_of(environment, "LEAKLINE_AGENT_PATIENCE"), 60) * 1000000000ull;
	own_pid = syscall_0(SYS_getpid);
	root = (long)number(value_of(environment, "LEAKLINE_AGENT_ROOT"), (uint64_t)own_pid);
	if (children && !strcmp(children, "exec"))
		follow = FOLLOW_EXEC;
	else if (children && !strcmp(children, "none"))
		follow = FOLLOW_NONE;
	__cxa_atexit((void (*)(void *))(void (*)(void))at_exit, NULL, NULL);
	__cxa_at_quick_exit((void (*)(void *))(void (*)(void))at_exit, NULL);
	__register_atfork(NULL, NULL, after_fork, NULL);
	watch_aborts();
	if (!(follow == FOLLOW_NONE && own_pid != root))
		say_start();
}
