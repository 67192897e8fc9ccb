/* Keeps blocks that are allocated below `depth` frames of `frame` bytes each; the argument gives both. */
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

int main(void)
{
	puts("READY");
	fflush(stdout);
	for (;;) {
		int numbers[3] = {3, 1, 2};
		small(5);
		small(9);
		large(3);
		qsort(numbers, 3, sizeof *numbers, by_qsort);
		usleep(2000);
	}
}
