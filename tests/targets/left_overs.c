/* Lost blocks whose addresses are left over in memory that is in use: 1000 of 100 bytes in the buffers of streams, 6 of 200 on the stacks
 * of threads that nobody has joined, and one of 300 on a thread's own, allocated stack. What the threads return, and their TLS, is held. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BLOCKS = 4000, THREADS = 6, STACK = 256 << 10 };

static char *kept[BLOCKS];
static pthread_t threads[THREADS];
static FILE *written, *read_from;
static __thread void *in_tls;
static void *stack;
static pthread_barrier_t there;

__attribute__((noinline)) static void scrub(void)
{
	volatile char space[65536];
	memset((char *)space, 0, sizeof space);
}

__attribute__((noinline)) static void streams(void)
{
	char line[100], **all = malloc(BLOCKS * sizeof *all);
	for (int i = 0; i < BLOCKS; i++)
		all[i] = malloc(100);
	for (int i = 0; i < BLOCKS; i++)
		kept[i] = i % 4 ? all[i] : NULL;
	free(all); /* what is printed or read from now on gets this memory as its buffer */
	written = fopen("/dev/null", "w");
	fputs("a few bytes\n", written);
	read_from = fopen("/proc/self/status", "r");
	fgets(line, sizeof line, read_from);
}

__attribute__((noinline)) static void lose(size_t size, int deeper)
{
	void *volatile lost[64] = {0};
	lost[32] = deeper ? NULL : malloc(size);
	if (deeper)
		lose(size, deeper - 1);
	lost[0] = NULL;
}

static void *unjoined(void *unused)
{
	lose(200, 2);
	in_tls = malloc(500);
	return malloc(600);
}

static void *on_allocated_stack(void *unused)
{
	lose(300, 20);
	pthread_barrier_wait(&there);
	for (;;)
		pause();
}

static void start_threads(void)
{
	pthread_attr_t own;
	pthread_t other;
	for (int i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, unjoined, NULL);
	pthread_attr_init(&own);
	stack = aligned_alloc(4096, STACK);
	pthread_attr_setstack(&own, stack, STACK);
	pthread_barrier_init(&there, NULL, 2);
	pthread_create(&other, &own, on_allocated_stack, NULL);
	pthread_barrier_wait(&there);
	usleep(200000);
}

int main(void)
{
	streams();
	start_threads();
	scrub();
	puts("READY");
	fflush(stdout);
	if (getenv("HOLD"))
		for (;;)
			pause();
	_exit(0);
}
