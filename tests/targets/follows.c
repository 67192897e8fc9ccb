/* Allocates by the same few stacks in the same order, so often that the next one is guessed from the one before it; and then by other ones. */
#define _GNU_SOURCE
#include <alloca.h>
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#define ALONE __attribute__((noinline, noclone))
#define STAY __asm__ volatile("")
#define OFTEN 100000

void *blocks[4096];
static unsigned n_blocks;
static __thread int are_kept;

ALONE void leaf(void)
{
	char *block = malloc(24);
	*(volatile char *)block = 1;
	if (are_kept)
		blocks[__atomic_fetch_add(&n_blocks, 1, __ATOMIC_RELAXED) % 4096] = block;
	else
		free(block);
}
ALONE void common(void) { leaf(); STAY; }
ALONE void by_a(void) { common(); STAY; }
ALONE void by_b(void) { volatile char room[64]; room[0] = 1; common(); STAY; }
ALONE void by_c(void) { by_a(); STAY; }
ALONE void by_d(unsigned size) { volatile char *room = alloca(size); room[0] = 1; common(); STAY; }
ALONE void in_turn(int times)
{
	for (int i = 0; i < times; i++) {
		by_a();
		by_b();
		by_c();
		by_a();
	}
}
ALONE void by_callback(void *(*entry)(void))
{
	void *block = entry();
	if (are_kept)
		blocks[n_blocks++] = block;
	else
		free(block);
	STAY;
}

/* Functions of two libraries, one after the other in the same place. */
static void libraries(char **paths)
{
	for (int i = 0; i < 20; i++) {
		void *library = dlopen(paths[i & 1], RTLD_NOW);
		void *(*entry)(void) = (void *(*)(void))dlsym(library, "entry");
		for (int turn = 0; turn < 1000; turn++) {
			in_turn(1);
			are_kept = turn == 999;
			by_callback(entry);
			are_kept = 0;
		}
		dlclose(library);
	}
}

/* Stacks that are unmapped, and mapped again with another length in the same place. */
static ucontext_t here, there;
ALONE static void on_stack(void) { in_turn(10); by_d(64); are_kept = 1; in_turn(1); are_kept = 0; swapcontext(&there, &here); }
static void coroutines(void)
{
	for (volatile int i = 0; i < 100; i++) {
		size_t size = i % 2 ? 1 << 14 : 1 << 16;
		char *stack = mmap(NULL, 1 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		mprotect(stack, size, PROT_READ | PROT_WRITE);
		getcontext(&there);
		there.uc_stack.ss_sp = stack;
		there.uc_stack.ss_size = size;
		makecontext(&there, on_stack, 0);
		swapcontext(&here, &there);
		munmap(stack, 1 << 20);
		in_turn(10);
	}
}

static void handle(int number) { (void)number; in_turn(1); }
static void signals(void)
{
	stack_t other = {.ss_sp = malloc(1 << 16), .ss_size = 1 << 16};
	sigaltstack(&other, NULL);
	struct sigaction action = {.sa_handler = handle, .sa_flags = SA_ONSTACK};
	sigaction(SIGUSR1, &action, NULL);
	for (int i = 0; i < 1000; i++) {
		in_turn(10);
		raise(SIGUSR1);
	}
}

static void *in_thread(void *deep)
{
	volatile char *room = alloca((size_t)deep);
	room[0] = 1;
	in_turn(OFTEN / 2);
	are_kept = 1;
	in_turn(8);
	return NULL;
}
static void threads(void)
{
	pthread_attr_t small;
	pthread_t thread[4];
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 1 << 15);
	for (long i = 0; i < 4; i++)
		pthread_create(&thread[i], i & 1 ? &small : NULL, in_thread, (void *)(i & 1 ? 64L : 400000L));
	for (int i = 0; i < 4; i++)
		pthread_join(thread[i], NULL);
}

int main(int count, char **arguments)
{
	const char *what = arguments[1];
	(void)count;
	in_turn(OFTEN);
	if (!strcmp(what, "libraries"))
		libraries(arguments + 2);
	if (!strcmp(what, "coroutines"))
		coroutines();
	if (!strcmp(what, "signals"))
		signals();
	if (!strcmp(what, "threads"))
		threads();
	if (!strcmp(what, "order")) {
		are_kept = 1;
		in_turn(8);
		for (unsigned i = 0; i < 8; i++) {
			by_d(16 + 512 * i);
			by_c();
			by_b();
		}
	}
	return 0;
}
