/*
 * Stopping single threads by ptrace(2), reading their registers, and letting them go as if nothing had been.
 * PTRACE_SEIZE sends no signal, and the kernel lets the threads run on if we die, whatever the moment.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <sched.h>
#include <stdint.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#ifndef __WALL
#define __WALL 0x40000000
#endif

enum { REGISTERS = 27, RAX = 10, ORIG_RAX = 15 }; /* words of struct user_regs_struct (arch/x86/include/asm/user_64.h) */
enum { SPIN_NS = 100000, YIELD_NS = 200000, SHORT_PAUSES_NS = 20000000, SHORT_PAUSE_NS = 5000, FIRST_PAUSE_NS = 20000, LONGEST_PAUSE_NS = 2000000 };
enum stop_result { STOPPED, ENDED, LATE, NOT_64_BIT };

struct thread {
	uint64_t general[REGISTERS];
	uint32_t extended_size;
	int32_t pending;         /* the signal that it must get when it goes on, 0 for none */
	uint64_t ran_at;         /* CLOCK_MONOTONIC when it was last seen not to have stopped yet, 0 if it was not */
	uint8_t extended[16384]; /* the XSAVE area */
};

/*
 * System calls that a stop makes return EINTR although no signal came (signal(7), "Interruption of system calls"):
 * read write readv writev connect accept sendto recvfrom sendmsg recvmsg semop msgsnd msgrcv rt_sigtimedwait io_getevents
 * semtimedop epoll_wait epoll_pwait accept4 recvmmsg sendmmsg io_pgetevents io_uring_enter epoll_pwait2.
 * close(2) must never be in this list: to repeat it would close somebody else's descriptor.
 */
static const uint16_t restartable[] = {0,   1,	 19,  20,  42,	43,  44,  45,  46,  47,	 65,  69,
				       70,  128, 208, 220, 232, 281, 288, 299, 307, 333, 426, 441};

static uint64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void pause_for(uint64_t ns)
{
	struct timespec t = {0, (long)ns};
	nanosleep(&t, NULL);
}

/* Take a thread over and ask it to stop. Returns 0, or an errno. */
int leakline_stop_seize(int tid)
{
	if (ptrace(PTRACE_SEIZE, tid, NULL, NULL) || ptrace(PTRACE_INTERRUPT, tid, NULL, NULL))
		return errno;
	return 0;
}

/* Let an interrupted system call be restarted instead of returning EINTR: at once, lest we die before. */
static enum stop_result read_registers(int tid, struct thread *t)
{
	struct iovec area = {t->general, sizeof t->general};
	if (ptrace(PTRACE_GETREGSET, tid, (void *)NT_PRSTATUS, &area))
		return ENDED; /* killed meanwhile */
	if (area.iov_len != sizeof t->general)
		return NOT_64_BIT;
	for (size_t i = 0; (int64_t)t->general[RAX] == -EINTR && i < sizeof restartable / sizeof *restartable; i++) {
		if (t->general[ORIG_RAX] != restartable[i])
			continue;
		t->general[RAX] = (uint64_t)-514; /* ERESTARTNOHAND (include/linux/errno.h) */
		ptrace(PTRACE_SETREGSET, tid, (void *)NT_PRSTATUS, &area);
	}
	area = (struct iovec){t->extended, sizeof t->extended};
	t->extended_size = ptrace(PTRACE_GETREGSET, tid, (void *)NT_X86_XSTATE, &area) ? 0 : (uint32_t)area.iov_len;
	return STOPPED;
}

/*
 * Wait for a while, the longer the later. A sleep takes 50 microseconds more than it should (timer slack), and to yield on a busy machine
 * milliseconds, which is longer than most stops: spin first. In real time sleeps are exact, and give the thread a CPU to stop on.
 */
static void bide(uint64_t waited, int in_real_time, uint64_t *pause)
{
	if (in_real_time && waited < SHORT_PAUSES_NS) {
		pause_for(SHORT_PAUSE_NS);
	} else if (waited < SPIN_NS) {
		return;
	} else if (waited < YIELD_NS) {
		sched_yield();
	} else {
		pause_for(*pause);
		*pause = *pause * 2 > LONGEST_PAUSE_NS ? LONGEST_PAUSE_NS : *pause * 2;
	}
}

static int await(int tid, int ours, uint64_t until, int in_real_time, struct thread *t)
{
	uint64_t began = now(), pause = FIRST_PAUSE_NS;
	t->ran_at = 0;
	for (;;) {
		siginfo_t info = {.si_pid = 0};
		uint64_t time = now();
		int status;
		if (waitid(P_PID, (id_t)tid, &info, WSTOPPED | WEXITED | WNOHANG | WNOWAIT | __WALL))
			return ENDED;
		if (info.si_pid) {
			if (info.si_code != CLD_STOPPED && info.si_code != CLD_TRAPPED && ours)
				return ENDED;
			if (waitpid(tid, &status, __WALL | WNOHANG) != tid || !WIFSTOPPED(status))
				return ENDED;
			/* Anything but our own stop is a signal on its way to the thread: it must arrive when we let go. */
			t->pending = status >> 16 == PTRACE_EVENT_STOP ? 0 : WSTOPSIG(status);
			return (int)read_registers(tid, t);
		}
		t->ran_at = time;
		if (time > until)
			return LATE;
		bide(time - began, in_real_time, &pause);
	}
}

/*
 * Wait until a seized thread has stopped, up to `until` (CLOCK_MONOTONIC), and read its registers. `ours` is set for our own child: whoever
 * started it asks for its exit status.
 */
int leakline_stop_await(int tid, int ours, uint64_t until, struct thread *t)
{
	return await(tid, ours, until, 0, t);
}

/* Read the registers of a thread that somebody has stopped and waited for. Returns an enum stop_result. */
int leakline_stop_read(int tid, struct thread *t)
{
	t->pending = 0;
	return (int)read_registers(tid, t);
}

/* Let it go on, with the signal that it must get. Returns 0, or an errno: ESRCH if it was killed while it stood still. */
int leakline_stop_release(int tid, int pending)
{
	return ptrace(PTRACE_DETACH, tid, NULL, (void *)(intptr_t)pending) ? errno : 0;
}

/*
 * Read one thread's registers: stop it alone, for as long as that takes. Returns an enum stop_result, or a negative errno where it could
 * not be seized; *stood gets the nanoseconds. One that is LATE stays seized, and has to be awaited and released.
 * On a busy machine the thread would stand still until it is our turn: where we may, we go before all that is not in real time.
 */
int leakline_stop_glance(int tid, int ours, uint64_t until, struct thread *t, uint64_t *stood)
{
	struct sched_param first = {.sched_priority = 1}, before;
	int policy = sched_getscheduler(0);
	int hurried = policy >= 0 && !sched_getparam(0, &before) && !sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &first);
	uint64_t began = now();
	int result = -leakline_stop_seize(tid);
	*stood = 0;
	if (!result) {
		result = await(tid, ours, until, hurried, t);
		if (result == STOPPED || result == NOT_64_BIT)
			leakline_stop_release(tid, t->pending);
		*stood = now() - (t->ran_at ? t->ran_at : began);
	}
	if (hurried)
		sched_setscheduler(0, policy, &before);
	return result;
}
