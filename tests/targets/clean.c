/* Allocates and frees for ever, and holds a ring of blocks: nothing is lost. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char *ring[64];

int main(void)
{
	puts("READY");
	fflush(stdout);
	for (unsigned i = 0;; i++) {
		free(ring[i % 64]);
		ring[i % 64] = malloc(1000 + i % 4000);
		memset(ring[i % 64], 1, 1000);
		if (i % 16 == 0)
			usleep(2000);
	}
}
