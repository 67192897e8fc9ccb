/* Loads libraries, calls their `entry`, forgets what it returns, and unloads them. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

__attribute__((noinline)) static void use(const char *path)
{
	void *library = dlopen(path, RTLD_NOW);
	if (!library)
		exit(3);
	void *(*entry)(void) = (void *(*)(void))dlsym(library, "entry");
	*(volatile char *)entry() = 1;
	dlclose(library);
}

__attribute__((noinline)) static void wipe(void)
{
	volatile char stack[65536];
	memset((char *)stack, 0, sizeof stack);
}

int main(int count, char **paths)
{
	for (int i = 1; i < count; i++)
		use(paths[i]);
	wipe();
	if (getenv("HOLD")) {
		puts("READY");
		fflush(stdout);
		for (;;)
			pause();
	}
	return 0;
}
