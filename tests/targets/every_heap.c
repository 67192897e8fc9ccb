/* A little of all that malloc keeps books about: chunks, tcaches, fastbins and bins of the main arena and of a thread's, which has two heaps,
 * memory of somebody else's sbrk between chunks, mmapped chunks, and the kept stack of an ended thread. */
#define _GNU_SOURCE
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HELD = 8, FREED = 40 };

static void *held[2][HELD], *mapped[2], *large[3];
static pthread_barrier_t done;

static void work(int number)
{
	void *freed[FREED], **list = NULL;
	for (int i = 0; i < HELD; i++) {
		void **node = malloc(40 + 200 * (i % 2)); /* a lost list */
		*node = list;
		list = node;
		held[number][i] = calloc(1, 100);
	}
	for (int i = 0; i < FREED; i++)
		freed[i] = malloc(24 + i % 4 * 16 + (i % 10 == 9) * (700 + 40 * i));
	held[number][0] = malloc(500);
	for (int i = 0; i < FREED; i++)
		free(freed[i]);
	held[number][1] = malloc(900); /* sorts the freed ones into their bins */
}

static void fill_fastbin(void)
{
	void *freed[12];
	for (int i = 0; i < 12; i++)
		freed[i] = malloc(24);
	for (int i = 0; i < 12; i++)
		free(freed[i]);
}

static void *leave(void *unused)
{
	return unused;
}

static void *stay(void *unused)
{
	work(1);
	for (int i = 0; i < 3; i++)
		large[i] = malloc(30 << 20);
	fill_fastbin();
	pthread_barrier_wait(&done);
	for (;;)
		pause();
	return unused;
}

int main(void)
{
	pthread_t thread;
	mapped[0] = malloc(300000);
	if (posix_memalign(&mapped[1], 8192, 300000))
		return 1;
	work(0);
	held[0][2] = malloc(100000);
	if (sbrk(5000) == (void *)-1)
		return 1;
	held[0][3] = malloc(100000);
	mallopt(M_MMAP_THRESHOLD, 32 << 20); /* the thread's large blocks come from its arena */
	pthread_barrier_init(&done, NULL, 2);
	pthread_create(&thread, NULL, stay, NULL);
	pthread_barrier_wait(&done);
	pthread_create(&thread, NULL, leave, NULL);
	pthread_join(thread, NULL);
	setvbuf(stdout, NULL, _IONBF, 0);
	fill_fastbin();
	puts("READY");
	for (;;)
		pause();
}
