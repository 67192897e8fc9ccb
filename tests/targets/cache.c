/* A cache that nobody empties, and a ring beside it whose blocks have the same size: 50 items a second, and 50 that take the place of older
 * ones. Ends by itself after a minute. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct item {
	struct item *next;
	char data[232];
};

static struct item *cache, *ring[64];

static void remember(void)
{
	struct item *item = calloc(1, sizeof *item); /* grows */
	item->next = cache;
	cache = item;
}

static void renew(unsigned turn)
{
	free(ring[turn % 64]);
	ring[turn % 64] = calloc(1, sizeof(struct item)); /* steady */
}

int main(void)
{
	alarm(60);
	for (unsigned turn = 0;; turn++) {
		renew(turn);
		if (turn == 256) {
			printf("READY\n%d\n", getpid());
			fflush(stdout);
		}
		if (turn < 256)
			continue;
		usleep(20000);
		remember();
	}
}
