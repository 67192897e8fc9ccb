/* A cache that nobody empties: 50 items a second, all of them held. `names` and `why` hold what a test asks for. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct item {
	struct item *next;
	char data[232];
};

struct item *cache;

static void add(void)
{
	struct item *item = calloc(1, sizeof *item);
	item->next = cache;
	cache = item;
}

__attribute__((noinline)) static void lose(void)
{
	char *secret = malloc(600);
	strcpy(secret + 100, "password=correct horse");
	char **holder = malloc(700);
	*holder = secret;
	printf("%p\n", secret);
	__asm__ volatile("" : : "r"(holder) : "memory");
}

__attribute__((noinline)) static void wipe(void)
{
	volatile char stack[16384];
	memset((char *)stack, 0, sizeof stack);
}

int main(int count, char **arguments)
{
	for (int i = 0; i < 3; i++)
		add();
	puts("READY");
	printf("%p %p\n", cache, cache->next->next);
	lose();
	fflush(stdout);
	wipe();
	for (;;) {
		usleep(20000);
		if (count == 1)
			add();
		free(malloc(300 + rand() % 600));
	}
}
