/* The first thread ends, another holds 20 MiB and lives on. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void *run(void *nothing)
{
	memset(malloc(20 << 20), 1, 20 << 20);
	puts("READY");
	fflush(stdout);
	for (;;)
		pause();
	return nothing;
}

int main(void)
{
	pthread_t thread;
	pthread_create(&thread, NULL, run, NULL);
	pthread_exit(NULL);
}
