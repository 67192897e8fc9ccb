/* Ends by a signal, each way by itself. */
#define _GNU_SOURCE
#include <alloca.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

struct address { int street; char city[20]; };
struct person { long id; struct address home; struct person *next; };

static sigjmp_buf back;
static volatile int sink;
static int city_of(struct person *someone);

static void go_back(int number) { siglongjmp(back, number); }
static void tell(int number) { (void)!write(1, "handled\n", 8); signal(number, SIG_DFL); }
static void again(int number) { signal(number, SIG_DFL); raise(number); }
static void crash_too(int number) { sink = city_of(NULL) + number; } /* IN HANDLER */
static void leave(int number) { (void)number; _exit(42); }

static int city_of(struct person *someone) { return someone->home.city[3]; } /* NULL MEMBER */
static int next_of(struct person *first) { return first->next->id > 0; } /* NULL NEXT */
static void fill(char *text) { text[0] = 'x'; } /* WRITE LITERAL */
static int even(int n);
static int odd(int n) { volatile char room[200]; room[0] = n; return even(n + 1) + room[0]; }
static int even(int n) { volatile char room[100]; room[0] = n; return odd(n + 1) + room[0]; } /* MUTUAL */
static void *recurse(void *n) { volatile char room[500]; room[0] = 1; recurse((char *)n + 1); return (void *)room; }
__attribute__((noinline)) static void smash(void) { ((long *)__builtin_frame_address(0))[1] = 0x4141414141414141; } /* SMASH */
static void huge_frame(void) { volatile char room[64 << 20]; memset((char *)room, 1, 100); } /* HUGE FRAME */

static char *file_of(size_t size, size_t mapped)
{
	char name[] = "/var/tmp/leakline-crash-XXXXXX";
	int file = mkstemp(name);
	unlink(name);
	if (ftruncate(file, size))
		abort();
	return mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
}

static void crash(const char *how)
{
	struct person someone = { 1 };
	if (!strcmp(how, "null-member")) {
		sink = city_of(NULL);
	} else if (!strcmp(how, "null-next")) {
		sink = next_of(&someone);
	} else if (!strcmp(how, "null-call")) {
		void (*volatile function)(void) = NULL;
		function(); /* NULL CALL */
	} else if (!strcmp(how, "literal")) {
		fill((char *)"a literal");
	} else if (!strcmp(how, "mutual")) {
		sink = even(1);
	} else if (!strcmp(how, "thread-overflow")) {
		pthread_t thread;
		pthread_create(&thread, NULL, recurse, NULL);
		pthread_join(thread, NULL);
	} else if (!strcmp(how, "smash")) {
		smash();
	} else if (!strcmp(how, "huge-frame")) {
		huge_frame();
	} else if (!strcmp(how, "past-end")) {
		char *page = mmap((void *)0x600000000000, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		for (int i = 0; i < 8192; i++)
			page[i] = 1; /* PAST END */
	} else if (!strcmp(how, "guard")) {
		char *page = mmap(NULL, 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		sink = page[5]; /* GUARD */
	} else if (!strcmp(how, "not-an-address")) {
		struct person *volatile wild = (struct person *)0x6c6c6f6865676e61;
		sink = wild->id; /* NOT AN ADDRESS */
	} else if (!strcmp(how, "beyond-file")) {
		char *text = file_of(5000, 3 * 4096);
		text[0] = 1;
		sink = text[8192 + 7]; /* BEYOND FILE */
	} else if (!strcmp(how, "sent")) {
		kill(getpid(), SIGSEGV);
	} else if (!strcmp(how, "child")) {
		if (!fork())
			sink = city_of(NULL);
		wait(NULL);
	} else if (!strcmp(how, "handled")) {
		signal(SIGSEGV, go_back);
		if (!sigsetjmp(back, 1))
			sink = city_of(NULL);
		puts("went on");
		exit(7);
	} else if (!strcmp(how, "handler-returns")) {
		signal(SIGSEGV, tell);
		sink = city_of(NULL);
	} else if (!strcmp(how, "handler-raises")) {
		signal(SIGSEGV, again);
		sink = city_of(NULL);
	} else if (!strcmp(how, "in-handler")) {
		signal(SIGALRM, crash_too);
		ualarm(1000, 0);
		for (;;)
			sink++; /* INTERRUPTED */
	} else if (!strcmp(how, "handler-exits")) {
		signal(SIGSEGV, leave);
		sink = city_of(NULL);
	} else if (!strcmp(how, "protected")) {
		char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		page[0] = 1;
		mprotect(page, 4096, PROT_READ);
		page[1] = 1; /* PROTECTED */
	} else if (!strcmp(how, "freed")) {
		char *page = mmap((void *)0x610000000000, 16384, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		page[0] = 1;
		munmap(page, 16384);
		memcpy(page + 100, "abcdef", 6); /* FREED */
	} else if (!strcmp(how, "status")) {
		exit(5);
	} else if (!strcmp(how, "term")) {
		raise(SIGTERM);
	}
}

int main(int argc, char **arguments)
{
	crash(arguments[1]);
	return 0;
}
