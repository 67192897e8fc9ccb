/* Grows outside malloc's heap, in the way that the argument names, ten times a second; `storm` allocates as fast as it can. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define ALONE __attribute__((noinline, noclone))

ALONE static void map(void)
{
	char *block = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memset(block, 1, 1 << 16); /* mmap */
}

ALONE static void file_in_memory(void)
{
	int fd = memfd_create("cache", 0);
	char page[1 << 16] = {1};
	if (write(fd, page, sizeof page) < 0)
		abort();
}

ALONE static void pipes(void)
{
	int ends[2];
	if (pipe(ends))
		abort();
}

static void *wait_for_ever(void *unused) { pause(); return unused; }

ALONE static void thread(void)
{
	pthread_t thread;
	pthread_attr_t small;
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 1 << 16);
	pthread_create(&thread, &small, wait_for_ever, NULL);
}

ALONE static void zombie(void)
{
	if (!fork())
		_exit(0);
}

void *volatile sink;

ALONE static void lose(void) { sink = malloc(120); /* storm */ }

ALONE static void storm(void)
{
	for (int i = 0; i < 1000; i++) {
		free(malloc(64));
		sink = NULL;
	}
	lose();
}

int main(int count, char **arguments)
{
	static const struct { const char *name; void (*grow)(void); } ways[] = {
		{"mmap", map}, {"memfd", file_in_memory}, {"pipe", pipes}, {"thread", thread}, {"zombie", zombie}, {"storm", storm}};
	const char *way = count > 1 ? arguments[1] : "";
	free(malloc(1));
	puts("READY");
	fflush(stdout);
	for (;;) {
		for (unsigned i = 0; i < sizeof ways / sizeof *ways; i++)
			if (!strcmp(way, ways[i].name))
				ways[i].grow();
		if (strcmp(way, "storm"))
			usleep(100000);
	}
}
