/* 200 times a second one more block of 1,000 bytes is held, and every tenth time one of 500 is lost; until its input ends. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void **cache;
static size_t used, room;

__attribute__((noinline)) static void keep(void)
{
	if (used == room)
		cache = realloc(cache, (room += 100000) * sizeof *cache);
	cache[used] = malloc(1000);
	memset(cache[used++], 1, 1000);
}

__attribute__((noinline)) static void lose(void)
{
	memset(malloc(500), 1, 500);
}

__attribute__((noinline)) static void wipe(void)
{
	volatile char stack[16384];
	memset((char *)stack, 0, sizeof stack);
}

int main(void)
{
	struct pollfd input = {.fd = 0, .events = POLLIN};
	puts("READY");
	fflush(stdout);
	for (int i = 0; !poll(&input, 1, 5); i++) {
		keep();
		if (i % 10 == 0)
			lose();
		wipe();
	}
	return 3;
}
