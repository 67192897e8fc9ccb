/* Stacks that are hard to unwind or to remember, each with a known chain of callers. The argument names one. */
#define _GNU_SOURCE
#include <alloca.h>
#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#define ALONE __attribute__((noinline, noclone))
#define STAY __asm__ volatile("")

void *blocks[8192];
int n_blocks;
static volatile int sink;

ALONE void leaf(void) { blocks[n_blocks++] = malloc(64); STAY; }

/* `scratch` saves rbp, which it uses for something else: the same value whoever called; the frames above hang on the saved one. */
ALONE __attribute__((optimize("O2", "omit-frame-pointer"))) void scratch(long value)
{
	register long x __asm__("rbp");
	__asm__ volatile("mov %1, %0" : "=r"(x) : "r"(value) :);
	blocks[n_blocks++] = malloc(100);
	__asm__ volatile("" ::"r"(x));
}
ALONE void below(long n) { volatile char *p = alloca(n); p[0] = 0; scratch(42); sink += p[0]; }
ALONE void caller_a(void) { below(0x200); STAY; }
ALONE void caller_b(void) { volatile char pad[0x100]; __asm__ volatile("" ::"r"(pad)); below(0x100); STAY; }
static void alloca_frames(void)
{
	for (volatile int i = 0; i < 40; i++) {
		void (*volatile f)(void) = i & 1 ? caller_b : caller_a;
		f();
	}
}

/* Realigned frames: the CFA is an expression. */
ALONE void realigned(int n)
{
	volatile char buffer[64] __attribute__((aligned(64)));
	char *p = alloca(n);
	p[0] = 1;
	buffer[0] = p[0];
	__asm__ volatile("" ::"r"(buffer), "r"(p));
	leaf();
	STAY;
}
ALONE void above(int n) { realigned(n); STAY; }
static void expressions(void) { for (volatile int i = 0; i < 50; i++) above(16 + i % 3 * 32); }

ALONE void handler(int number) { leaf(); STAY; }
static void signals(void) { signal(SIGUSR1, handler); for (volatile int i = 0; i < 20; i++) raise(SIGUSR1); }
static void signals_elsewhere(void)
{
	stack_t stack = {.ss_sp = mmap(NULL, 1 << 16, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), .ss_size = 1 << 16};
	struct sigaction action = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
	sigaltstack(&stack, NULL);
	sigaction(SIGUSR1, &action, NULL);
	for (volatile int i = 0; i < 20; i++)
		raise(SIGUSR1);
}

/* Four ways through each level. */
ALONE void way(unsigned n, unsigned bits)
{
	if (!n) {
		leaf();
	} else if (bits & 1) {
		way(n - 1, bits >> 1);
		__asm__("nop");
	} else {
		way(n - 1, bits >> 1);
		__asm__("nop; nop");
	}
}
static void varied(void) { for (volatile unsigned i = 0; i < 4096; i++) way(10, i & 1023); }

/* Of one caller: very many ways, and between them stacks of another shape. */
static void mixed(void)
{
	for (volatile unsigned i = 0; i < 4000; i++) {
		way(10, i * 37 & 1023);
		if (i > 2000 && i % 8 == 0)
			above(16 + i % 3 * 32);
	}
}

ALONE void brief(void) { free(malloc(20)); STAY; }
ALONE void brief_way(unsigned n, unsigned bits)
{
	if (!n) {
		brief();
	} else if (bits & 1) {
		brief_way(n - 1, bits >> 1);
		__asm__("nop");
	} else {
		brief_way(n - 1, bits >> 1);
		__asm__("nop; nop");
	}
}
static void *many_ways(void *first)
{
	for (long i = 0; i < 30000; i++)
		brief_way(10, ((long)first + i * 37) & 1023);
	return NULL;
}
static void varied_at_once(void)
{
	pthread_t all[4];
	for (long i = 0; i < 4; i++)
		if (pthread_create(&all[i], NULL, many_ways, (void *)i))
			exit(3);
	for (int i = 0; i < 4; i++)
		pthread_join(all[i], NULL);
}

ALONE void deep(int n) { if (n) deep(n - 1); else leaf(); STAY; }
static void too_deep(void) { deep(500); }

static ucontext_t here, there;
ALONE void in_coroutine(void) { for (;;) { leaf(); swapcontext(&there, &here); } }
static void coroutines(void)
{
	for (volatile int i = 0; i < 20; i++) {
		char *stack = mmap(NULL, 1 << 14, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		getcontext(&there);
		there.uc_stack.ss_sp = stack;
		there.uc_stack.ss_size = 1 << 14;
		makecontext(&there, in_coroutine, 0);
		swapcontext(&here, &there);
		swapcontext(&here, &there);
		munmap(stack, 1 << 14);
	}
}

static jmp_buf back;
ALONE void jumps(void) { leaf(); longjmp(back, 1); }
static void longjmps(void) { for (volatile int i = 0; i < 20; i++) if (!setjmp(back)) jumps(); }

/* Code without call frame information, which changes rsp and rbp as it likes. */
void bare(void (*function)(void));
__asm__(".text\n.globl bare\n.type bare, @function\nbare: push %rbp\nmov $0x123456789, %rbp\nsub $64, %rsp\ncall *%rdi\nadd $64, %rsp\npop %rbp\nret\n"
	".size bare, . - bare\n");
static void no_information(void) { for (volatile int i = 0; i < 20; i++) bare(leaf); }

/* Two libraries, one after the other in the same place. */
static void replaced_libraries(char **paths)
{
	for (volatile int i = 0; i < 10; i++) {
		void *library = dlopen(paths[i & 1], RTLD_NOW);
		void *(*entry)(void) = (void *(*)(void))dlsym(library, "entry");
		blocks[1000 + n_blocks] = (void *)entry;
		blocks[n_blocks++] = entry();
		dlclose(library);
	}
}

/* A library, a copy of it that no loader knows, and the library again, all in the same place. */
static void copied_library(const char *path)
{
	for (int i = 0; i < 2; i++) {
		static char copy[1 << 16];
		void *library = dlopen(path, RTLD_NOW);
		void *(*entry)(void) = (void *(*)(void))dlsym(library, "entry");
		blocks[1000 + n_blocks] = (void *)entry;
		blocks[n_blocks++] = entry();
		if (i == 1)
			break;
		Dl_info info;
		dladdr((void *)entry, &info);
		const ElfW(Ehdr) *header = info.dli_fbase;
		const ElfW(Phdr) *segments = (const ElfW(Phdr) *)((const char *)info.dli_fbase + header->e_phoff);
		size_t size = 0;
		for (int k = 0; k < header->e_phnum; k++)
			if (segments[k].p_type == PT_LOAD)
				size = segments[k].p_vaddr + segments[k].p_memsz + 4095 & -4096;
		if (size > sizeof copy)
			exit(4);
		memcpy(copy, info.dli_fbase, size);
		dlclose(library);
		if (mmap(info.dli_fbase, size, 7, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != info.dli_fbase)
			exit(5);
		memcpy(info.dli_fbase, copy, size);
		dlopen("libm.so.6", RTLD_NOW);
		blocks[n_blocks++] = entry();
		munmap(info.dli_fbase, size);
	}
}

ALONE void allocate_below(long n)
{
	volatile char *p = alloca(n);
	p[0] = 1;
	void *block = malloc(10);
	__asm__ volatile("" : "+r"(block));
	free(block);
}
static void *in_thread(void *count)
{
	for (long i = 0; i < (long)count; i++)
		allocate_below(16 * (1 + i % 100));
	return NULL;
}
static void threads(int n)
{
	for (int i = 0; i < n; i++) {
		pthread_t thread;
		if (pthread_create(&thread, NULL, in_thread, (void *)50l))
			exit(3);
		pthread_join(thread, NULL);
	}
}
static void threads_at_once(int n)
{
	pthread_t all[n];
	for (int i = 0; i < n; i++)
		if (pthread_create(&all[i], NULL, in_thread, (void *)20000l))
			exit(3);
	for (int i = 0; i < n; i++)
		pthread_join(all[i], NULL);
}

/* Timer signals whose handler allocates, while the program allocates: rarely at the same time, as that is not allowed at all. */
static volatile int in_malloc, handled;
static void on_alarm(int number) { if (!in_malloc) free(malloc(33)); handled++; }
ALONE static void hot(void) { free(malloc(50)); STAY; }
static void alarms(void)
{
	signal(SIGALRM, on_alarm);
	struct itimerspec every = {{0, 100000}, {0, 100000}};
	timer_t timer;
	timer_create(CLOCK_MONOTONIC, NULL, &timer);
	timer_settime(timer, 0, &every, NULL);
	while (handled < 2000)
		hot();
	memset(&every, 0, sizeof every);
	timer_settime(timer, 0, &every, NULL);
}

int main(int count, char **arguments)
{
	const char *what = count > 1 ? arguments[1] : "";
	static const struct { const char *name; void (*function)(void); } all[] = {
		{"alloca", alloca_frames}, {"expressions", expressions}, {"signals", signals}, {"elsewhere", signals_elsewhere}, {"varied", varied},
		{"mixed", mixed}, {"varied-at-once", varied_at_once},
		{"deep", too_deep}, {"coroutines", coroutines}, {"longjmp", longjmps}, {"bare", no_information}, {"alarms", alarms}};
	for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
		if (!strcmp(all[i].name, what))
			all[i].function();
	if (!strcmp(what, "libraries"))
		replaced_libraries(arguments + 2);
	if (!strcmp(what, "copied"))
		copied_library(arguments[2]);
	if (!strcmp(what, "threads"))
		threads(atoi(arguments[2]));
	if (!strcmp(what, "at-once"))
		threads_at_once(atoi(arguments[2]));
	return 0;
}
