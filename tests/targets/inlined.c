/* The leak is in a function that is inlined into another: both are frames, and the line is the inner one's. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void *volatile sink;

static inline __attribute__((always_inline)) void take(unsigned size)
{
	sink = malloc(size); /* the line */
	sink = NULL;
}

__attribute__((noinline)) void service_handle(unsigned size)
{
	take(size);
	__asm__ volatile("");
}

int main(void)
{
	puts("READY");
	fflush(stdout);
	for (;;) {
		service_handle(700);
		usleep(10000);
	}
}
