/* Allocates and frees for ever, and holds a ring of blocks: nothing is lost. When it says READY, its heap is as large as it will be. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char *ring[64];

int main(void)
{
	for (unsigned i = 0;; i++) {
		free(ring[i % 64]);
		ring[i % 64] = malloc(1000 + i % 4000);
		memset(ring[i % 64], 1, 1000);
		if (i == 20000) {
			puts("READY");
			fflush(stdout);
		}
		if (i > 20000 && i % 16 == 0)
			usleep(2000);
	}
}
