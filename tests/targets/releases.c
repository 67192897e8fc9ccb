/* Every shape of heap in one program. It loses 102 blocks, each with one more that hangs on it, and nothing else:
 * 32 in main (6 of them mmapped), 3 x 12 in threads, 8 in a thread's further heaps, 26 in threads that have ended. */
#define _GNU_SOURCE
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { THREADS = 3, ENDED = 26, KEYS = 40, MANY = 800, BIG = 100000 };

static void *held[32], *of_threads[THREADS][2 * MANY];
static __thread void *of_thread;
static pthread_key_t keys[KEYS];
static pthread_barrier_t ending;
static int done;

/* Leave no pointer in dead stack, nor in registers that memset and others used. */
__attribute__((noinline)) static void wipe(void)
{
	volatile char stack[65536];
	for (unsigned i = 0; i < sizeof stack; i++)
		stack[i] = 0;
	if (__builtin_cpu_supports("avx"))
		__asm__ volatile("vzeroall");
	__asm__ volatile("xor %%ecx, %%ecx; xor %%edx, %%edx; xor %%esi, %%esi; xor %%edi, %%edi; xor %%r8d, %%r8d;"
			 "xor %%r9d, %%r9d; xor %%r10d, %%r10d; xor %%r11d, %%r11d"
			 : : : "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11");
}

/* A block without what was left in it: the usable bytes may be more than those asked for. */
__attribute__((noinline)) static void *clean(void *block)
{
	return memset(block, 0, malloc_usable_size(block));
}

/* A lost block, and one that only it leads to. */
__attribute__((noinline)) static void lose(void *block)
{
	*(void **)clean(block) = clean(malloc(40));
}

/* What is freed goes to tcache, fastbins and bins; what is held keeps the chunks apart. */
__attribute__((noinline)) static void free_some(void **kept)
{
	void *freed[200];
	for (int i = 0; i < 200; i++) {
		freed[i] = malloc(i < 120 ? 24 + i % 6 * 16 : 500 + i % 8 * 700);
		if (i % 4 == 0)
			kept[i / 4] = clean(malloc(56));
	}
	for (int i = 0; i < 200; i++)
		free(freed[i]);
	free(malloc(20000)); /* sorts the unsorted bin into small and large ones */
	for (int i = 0; i < 30; i++)
		freed[i] = malloc(3000 + 100 * i);
	for (int i = 0; i < 30; i += 2)
		free(freed[i]);
	for (int i = 1; i < 30; i += 2)
		kept[50 + i / 2] = clean(freed[i]);
}

__attribute__((noinline)) static void hold_by_thread(void)
{
	of_thread = clean(malloc(72));
	*(void **)of_thread = clean(malloc(72));
	for (int i = 0; i < KEYS; i++) { /* the first 32 lie in struct pthread, the others are allocated */
		void **value = clean(malloc(88));
		*value = clean(malloc(88));
		pthread_setspecific(keys[i], value);
	}
}

__attribute__((noinline)) static void work(long number)
{
	hold_by_thread();
	for (int i = 0; i < 8; i++)
		lose(malloc(100));
	free_some(of_threads[number]);
	if (number == 0) /* more than the 64 MiB that a heap holds */
		for (int i = 0; i < MANY; i++) {
			of_threads[0][MANY + i] = clean(malloc(BIG));
			if (i % 100 == 50)
				lose(malloc(100));
		}
	for (int i = 0; i < 4; i++)
		lose(malloc(100));
}

static void *run(void *number)
{
	work((long)number);
	wipe();
	__atomic_add_fetch(&done, 1, __ATOMIC_SEQ_CST);
	for (;;)
		pause();
	return NULL;
}

/* What only the stack of an ended thread knows is lost. */
static void *end(void *unused)
{
	void *volatile left[64];
	for (int i = 0; i < 64; i++)
		left[i] = 0;
	lose(left[32] = malloc(100));
	hold_by_thread();
	free(*(void **)of_thread);
	free(of_thread);
	pthread_barrier_wait(&ending);
	return unused;
}

static void destroy(void *value)
{
	free(*(void **)value);
	free(value);
}

__attribute__((noinline)) static void in_main(void)
{
	hold_by_thread();
	for (int i = 0; i < 10; i++)
		lose(malloc(100));
	free_some(of_threads[1] + MANY);
	for (int i = 0; i < 6; i++) { /* others' sbrk in between, which holds the only pointer to a block */
		held[i] = clean(malloc(BIG));
		void **ours = memset(sbrk(5008), 0x21, 5008);
		ours[1] = clean(malloc(BIG));
		lose(malloc(100));
	}
	for (int i = 0; i < 6; i++) { /* mmapped chunks */
		size_t alignment = (size_t[]){16, 64, 4096, 65536, 16, 256}[i];
		lose(memalign(alignment, 1 << 20));
		held[6 + i] = clean(memalign(alignment, 1 << 20));
		*(void **)held[6 + i] = clean(malloc(300));
	}
	for (int i = 0; i < 10; i++) { /* aligned chunks, and what is left in front of them */
		held[12 + i] = clean(memalign(32 << i, 700));
		lose(memalign(32 << i, 100));
	}
	*(void **)mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) = clean(malloc(1000));
}

int main(void)
{
	pthread_t threads[ENDED];
	setvbuf(stdout, NULL, _IONBF, 0); /* a buffer would be a block with left-overs in it */
	pthread_barrier_init(&ending, NULL, ENDED);
	for (int i = 0; i < KEYS; i++)
		pthread_key_create(&keys[i], destroy);
	for (int i = 0; i < ENDED; i++)
		pthread_create(&threads[i], NULL, end, NULL);
	for (int i = 0; i < ENDED; i++)
		pthread_join(threads[i], NULL);
	in_main();
	for (long i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, run, (void *)i);
	while (__atomic_load_n(&done, __ATOMIC_SEQ_CST) < THREADS)
		usleep(1000);
	puts("READY");
	wipe();
	for (;;)
		pause();
}
