/* A process of its own that lives in the address space of this one, and holds a block in a register alone. 10 more are lost. */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

static void *volatile handed;
static volatile int taken;

static int other(void *unused)
{
	(void)unused;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	__asm__ volatile("xor %%r12d, %%r12d\n"
			 "xchg %%r12, (%0)\n"
			 "movl $1, (%1)\n"
			 "1: mov $34, %%eax\n" /* pause(2) */
			 "syscall\n"
			 "jmp 1b\n"
			 :
			 : "r"(&handed), "r"(&taken)
			 : "rax", "rcx", "r11", "r12", "memory");
	return 0;
}

__attribute__((noinline)) static void prepare(void)
{
	handed = malloc(100);
	for (int i = 0; i < 10; i++)
		memset(malloc(200), 1, 200);
}

__attribute__((noinline)) static void wipe(void)
{
	volatile char stack[16384];
	memset((char *)stack, 0, sizeof stack);
}

int main(void)
{
	char *stack = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	prepare();
	clone(other, stack + 65536, CLONE_VM | SIGCHLD, NULL);
	while (!taken)
		usleep(1000);
	wipe();
	puts("READY");
	fflush(stdout);
	close(1);
	for (;;)
		pause();
}
