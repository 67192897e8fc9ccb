/* Loses 3 blocks of 100 bytes and ends, in the way that is named. */
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

static void *held;

static void let_go(void)
{
	held = NULL;
}

int main(int count, char **arguments)
{
	const char *how = count > 1 ? arguments[1] : "return";
	lose(3);
	wipe();
	if (!strcmp(how, "atexit")) { /* what an exit handler still holds is not lost, what it lets go is */
		held = malloc(300);
		atexit(let_go);
	}
	if (!strcmp(how, "fork")) {
		if (!fork()) {
			lose(2);
			wipe();
			exit(5);
		}
		int status;
		wait(&status);
		return WEXITSTATUS(status);
	}
	if (!strcmp(how, "exec")) {
		if (!fork())
			execl(arguments[0], arguments[0], "return", NULL);
		wait(NULL);
	}
	if (!strcmp(how, "_exit"))
		_exit(3);
	if (!strcmp(how, "quick_exit"))
		quick_exit(4);
	if (!strcmp(how, "abort"))
		abort();
	if (!strcmp(how, "killed"))
		raise(SIGKILL);
	if (!strcmp(how, "thread")) { /* the first thread ends, another one ends the process */
		pthread_t thread;
		pthread_create(&thread, NULL, (void *(*)(void *))exit, NULL);
		pthread_join(thread, NULL);
	}
	if (!strcmp(how, "closed"))
		for (int fd = 3; fd < 1024; fd++)
			close(fd);
	return 0;
}
