/* Four threads with arenas of their own: each loses 50 blocks of 1,000 bytes, holds 50, and frees 200 (tcache, fastbins, bins). */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void *held[4][50];
static pthread_barrier_t done;

__attribute__((noinline)) static void wipe(void)
{
	volatile char stack[16384];
	for (unsigned i = 0; i < sizeof stack; i++)
		stack[i] = 0;
}

__attribute__((noinline)) static void work(long number)
{
	void *freed[200];
	for (int i = 0; i < 50; i++) {
		memset(malloc(1000), 1, 1000);
		held[number][i] = malloc(1000);
	}
	for (int i = 0; i < 200; i++)
		freed[i] = malloc(24 + i % 10 * 50);
	for (int i = 0; i < 200; i++)
		free(freed[i]);
	memset(freed, 0, sizeof freed);
}

static void *run(void *number)
{
	work((long)number);
	wipe();
	pthread_barrier_wait(&done);
	wipe();
	for (;;)
		pause();
	return NULL;
}

int main(void)
{
	pthread_t thread;
	pthread_barrier_init(&done, NULL, 5);
	for (long i = 0; i < 4; i++)
		pthread_create(&thread, NULL, run, (void *)i);
	pthread_barrier_wait(&done);
	usleep(100000);
	puts("READY");
	fflush(stdout);
	for (;;)
		pause();
}
