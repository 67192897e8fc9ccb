/* Ten blocks that only epoll knows, ten that only timers know, and five that nobody knows. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

static __attribute__((noinline)) void make(void)
{
	int epoll = epoll_create1(0);
	for (int i = 0; i < 10; i++) {
		int ends[2];
		if (pipe(ends))
			abort();
		struct epoll_event event = {.events = EPOLLIN, .data.ptr = malloc(100)};
		epoll_ctl(epoll, EPOLL_CTL_ADD, ends[0], &event);
		struct sigevent signal = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value.sival_ptr = malloc(200)};
		timer_t timer;
		timer_create(CLOCK_MONOTONIC, &signal, &timer);
		if (i % 2)
			memset(malloc(300), 1, 300);
	}
}

static __attribute__((noinline)) void wipe(void)
{
	volatile char stack[65536];
	for (unsigned i = 0; i < sizeof stack; i++)
		stack[i] = 0;
}

int main(void)
{
	make();
	wipe();
	puts("READY");
	fflush(stdout);
	pause();
	return 0;
}
