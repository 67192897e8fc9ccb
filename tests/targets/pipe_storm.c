/* Makes and closes pipes as fast as it can, and keeps one of every LEAK-th if asked to.
 * usage: pipe_storm [LEAK]    Says READY, then once a second how many it made. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int count, char **arguments)
{
	long leak = count > 1 ? atol(arguments[1]) : 0, made = 0, before = 0;
	double began = now();

	puts("READY");
	fflush(stdout);
	for (;;) {
		int ends[2];

		if (pipe(ends))
			return 1;
		made++;
		if (!leak || made % leak) {
			close(ends[0]);
			close(ends[1]);
		}
		if (made % 1024 == 0 && now() - began >= 0.5) {
			printf("%.4f\n", (now() - began) / (made - before) * 1e6); /* microseconds of CPU each */
			fflush(stdout);
			began = now(), before = made;
		}
	}
}
