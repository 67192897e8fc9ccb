/* Threads that make lists, kept ones and lost ones, of memory that malloc had in its bins before: what it wrote there is still in the blocks. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { THREADS = 8, TURNS = 300 };

struct item {
	struct item *next;
	char data[100];
};

static struct item *kept[THREADS];

__attribute__((noinline)) static void work(long thread)
{
	struct item *lost = NULL;
	for (int i = 0; i < TURNS; i++) {
		struct item *a = malloc(sizeof *a), *b = malloc(sizeof *b);
		a->next = lost;
		lost = a;
		b->next = kept[thread];
		kept[thread] = b;
		free(malloc(17 * (size_t)i));
		if (i % 3 == 0) {
			kept[thread] = b->next;
			free(b);
		}
	}
}

__attribute__((noinline)) static void wipe(void)
{
	volatile char stack[65536];
	memset((char *)stack, 0, sizeof stack);
}

static void *run(void *thread)
{
	work((long)thread);
	wipe();
	return NULL;
}

int main(void)
{
	pthread_t threads[THREADS];
	for (long i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, run, (void *)i);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	wipe();
	if (getenv("HOLD")) {
		puts("READY");
		fflush(stdout);
		for (;;)
			pause();
	}
	return 0;
}
