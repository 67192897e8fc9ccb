/* Keeps blocks that are allocated at the end of stacks of many kinds, again and again. */
#include <alloca.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define ALONE __attribute__((noinline, noclone))

void *kept[1 << 20];
unsigned n;

ALONE void leaf(void) { kept[n++ & ((1 << 20) - 1)] = malloc(48); __asm__ volatile(""); }

ALONE void large(int depth);

ALONE void small(int depth)
{
	if (depth)
		small(depth - 1);
	else
		leaf();
	__asm__ volatile("");
}

ALONE void large(int depth)
{
	volatile char room[3000];
	room[depth] = 1;
	small(depth);
	__asm__ volatile("" ::"r"(room));
}

static int by_qsort(const void *a, const void *b)
{
	leaf();
	return *(const int *)a - *(const int *)b;
}

/* A realigned frame: its CFA is an expression. */
ALONE void realigned(int n)
{
	volatile char buffer[64] __attribute__((aligned(64)));
	char *p = alloca(n);
	p[0] = 1;
	buffer[0] = p[0];
	__asm__ volatile("" ::"r"(buffer), "r"(p));
	leaf();
	__asm__ volatile("" ::"r"(buffer), "r"(p));
}

ALONE void above(int n) { realigned(n); __asm__ volatile(""); }

ALONE void handler(int number) { leaf(); (void)number; __asm__ volatile(""); }

int main(void)
{
	signal(SIGUSR1, handler);
	puts("READY");
	fflush(stdout);
	for (;;) {
		int numbers[3] = {3, 1, 2};
		small(5);
		small(9);
		large(3);
		above(16 + n % 3 * 32);
		raise(SIGUSR1);
		qsort(numbers, 3, sizeof *numbers, by_qsort);
		usleep(2000);
	}
}
