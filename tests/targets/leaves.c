/* Ends while its blocks hang on frames that are gone, on those of who ends it, or on a register, in the way that is named. */
#define _GNU_SOURCE
#include <malloc.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ALONE __attribute__((noinline, noclone))
#define KEEP(pointer) __asm__ volatile("" : : "g"(&(pointer)) : "memory")

ALONE static void use_and_return(int depth)
{
	void *block = malloc(100 + depth);
	KEEP(block);
	if (depth)
		use_and_return(depth - 1);
	KEEP(block);
}

ALONE static void end_below(int depth, void (*end)(int))
{
	void *block = malloc(300 + depth);
	KEEP(block);
	if (depth)
		end_below(depth - 1, end);
	end(0);
	KEEP(block);
}

ALONE static void end_in_handler(void)
{
	void *block = malloc(400);
	KEEP(block);
	_exit(0);
}

ALONE static void return_from_handler(void)
{
	use_and_return(3);
}

ALONE static void *end_in_thread(void *unused)
{
	use_and_return(4);
	end_below(2, exit);
	return unused;
}

int main(int count, char **arguments)
{
	const char *how = count > 1 ? arguments[1] : "return";
	void *block = malloc(500), *large = memalign(1 << 20, 600);
	KEEP(block);
	KEEP(large);
	if (!strcmp(how, "thread")) { /* before anything is left where this thread waits */
		pthread_t thread;
		pthread_create(&thread, NULL, end_in_thread, NULL);
		pthread_join(thread, NULL);
	}
	use_and_return(8);
	if (!strcmp(how, "exit"))
		end_below(5, exit);
	if (!strcmp(how, "_exit"))
		end_below(5, _exit);
	if (!strcmp(how, "quick_exit"))
		end_below(5, quick_exit);
	if (!strcmp(how, "handler")) {
		atexit(end_in_handler);
		atexit(return_from_handler);
	}
	if (!strcmp(how, "register")) {
		register void *kept __asm__("rbx") = malloc(700);
		__asm__ volatile("" : "+r"(kept));
		exit(0);
	}
	return 0;
}
