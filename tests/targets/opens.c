/* Opens libraries while it runs: the loader allocates what it keeps of them. And loses a block. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void *kept;

__attribute__((noinline)) static void work(void)
{
	kept = dlopen("libm.so.6", RTLD_NOW);
	void *gone = dlopen("libutil.so.1", RTLD_NOW);
	if (gone)
		dlclose(gone);
	dlopen("there is no such library", RTLD_NOW);
	*(volatile char *)malloc(100) = 1;
}

__attribute__((noinline)) static void wipe(void)
{
	volatile char stack[65536];
	memset((char *)stack, 0, sizeof stack);
}

int main(void)
{
	work();
	wipe();
	if (getenv("HOLD")) {
		puts("READY");
		fflush(stdout);
		for (;;)
			pause();
	}
	return 0;
}
