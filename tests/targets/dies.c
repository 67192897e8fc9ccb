/* Loses 3 blocks of 100 bytes, and dies by a signal in the way that is named, with other threads or children about. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

__attribute__((noinline)) static void lose(int blocks)
{
	for (int i = 0; i < blocks; i++)
		memset(malloc(100), 1, 100);
}

__attribute__((noinline)) static void wipe(void)
{
	volatile char stack[16384];
	memset((char *)stack, 0, sizeof stack);
}

/* What a thread has nowhere but on its own stack is held. */
static void *hold(void *unused)
{
	void *volatile held = malloc(500);
	*(void *volatile *)held = unused;
	for (;;)
		pause();
}

static void *crash(void *unused)
{
	usleep(20000);
	*(volatile int *)unused = 1;
	return NULL;
}

static void *end(void *unused)
{
	return unused;
}

static void *replace(void *program)
{
	execl(program, program, "kill", NULL);
	return NULL;
}

static volatile sig_atomic_t heard;

static void hear(int number)
{
	heard += number == SIGUSR1;
}

int main(int count, char **arguments)
{
	const char *how = count > 1 ? arguments[1] : "kill";
	pthread_t thread;
	lose(3);
	wipe();
	if (!strcmp(how, "kill"))
		raise(SIGKILL);
	if (!strcmp(how, "segv"))
		*(volatile int *)8 = 1;
	if (!strcmp(how, "term"))
		raise(SIGTERM);
	if (!strcmp(how, "threads")) {
		for (int i = 0; i < 8; i++)
			pthread_create(&thread, NULL, hold, NULL);
		for (int i = 0; i < 8; i++) { /* their ends are nobody else's */
			pthread_create(&thread, NULL, end, NULL);
			pthread_join(thread, NULL);
		}
		pthread_create(&thread, NULL, crash, (void *)16);
		pause();
	}
	if (!strcmp(how, "exec")) { /* of a thread: all others end by that */
		for (int i = 0; i < 4; i++)
			pthread_create(&thread, NULL, hold, NULL);
		pthread_create(&thread, NULL, replace, arguments[0]);
		pause();
	}
	if (!strcmp(how, "child")) { /* dies, and its parent ends well */
		int status;
		if (!fork()) {
			lose(2);
			wipe();
			raise(SIGKILL);
		}
		wait(&status);
		return WTERMSIG(status);
	}
	if (!strcmp(how, "signals")) { /* get where they should, and stops are stops */
		int status;
		signal(SIGUSR1, hear);
		for (int i = 0; i < 100; i++)
			raise(SIGUSR1);
		pid_t child = fork();
		if (!child) {
			raise(SIGSTOP);
			_exit(7);
		}
		waitpid(child, &status, WUNTRACED);
		if (!WIFSTOPPED(status) || WSTOPSIG(status) != SIGSTOP)
			return 1;
		kill(child, SIGCONT);
		waitpid(child, &status, 0);
		return heard == 100 && WIFEXITED(status) && WEXITSTATUS(status) == 7 ? 42 : 2;
	}
	return 0;
}
