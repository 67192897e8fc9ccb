/* Fifty threads that have ended, each with a block that only its stack knew; glibc keeps the stacks. With `live`, one more lives. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static pthread_barrier_t all;

static void *work(void *unused)
{
	void *volatile held[64];
	for (int i = 0; i < 64; i++)
		held[i] = 0;
	held[32] = malloc(1000);
	memset(held[32], 1, 1000);
	pthread_barrier_wait(&all);
	return unused;
}

static void *live(void *unused)
{
	void *volatile held = malloc(2000);
	memset(held, 1, 2000);
	pause();
	return held == unused ? unused : held;
}

int main(int argc, char **argv)
{
	pthread_t threads[50], other;
	pthread_attr_t small;
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 128 << 10);
	pthread_barrier_init(&all, 0, 50);
	for (int i = 0; i < 50; i++)
		pthread_create(&threads[i], &small, work, 0);
	for (int i = 0; i < 50; i++)
		pthread_join(threads[i], 0);
	if (argc > 1 && !strcmp(argv[1], "live"))
		pthread_create(&other, 0, live, 0);
	if (!getenv("HOLD"))
		return 0;
	usleep(100000);
	puts("READY");
	fflush(stdout);
	pause();
	return 0;
}
