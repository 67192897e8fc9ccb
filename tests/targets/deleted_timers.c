/* Makes and deletes POSIX timers for some seconds: the kernel frees them by kfree_rcu, which emits no event (kernel/time/posix-timers.c). */
#include <signal.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

int main(void)
{
	struct sigevent event = { .sigev_notify = SIGEV_NONE };

	puts("READY");
	fflush(stdout);
	for (;;) {
		for (int i = 0; i < 500; i++) {
			timer_t timer;

			if (timer_create(CLOCK_MONOTONIC, &event, &timer) || timer_delete(timer))
				return 1;
		}
		usleep(50000);
	}
}
