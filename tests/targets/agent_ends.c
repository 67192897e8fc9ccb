/* Ways to end, to start others, and to change the limits of a process. The argument names one. */
#define _GNU_SOURCE
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;
void *blocks[8], *volatile freed;

static int is(const char *a, const char *b) { return !strcmp(a, b); }

static int wait_for(pid_t child)
{
	int status;
	if (waitpid(child, &status, 0) != child)
		return 99;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

__attribute__((destructor)) static void last(void) { blocks[1] = malloc(77); }
static void *ends_it(void *unused) { exit(6); }
static void *sleeps(void *unused) { for (;;) pause(); }
static void on_end(int number) { (void)!write(1, "handled\n", 8); }

int main(int count, char **arguments)
{
	const char *what = arguments[1];
	pthread_t thread;
	blocks[0] = malloc(55);
	if (is(what, "exit"))
		exit(3);
	if (is(what, "_exit"))
		_exit(4);
	if (is(what, "_Exit"))
		_Exit(5);
	if (is(what, "quick_exit"))
		quick_exit(7);
	if (is(what, "abort"))
		abort();
	if (is(what, "dump")) {
		for (int i = 0; i < 100000; i++)
			memset(malloc(100), 1, 100);
		signal(SIGABRT, SIG_DFL);
		raise(SIGABRT);
	}
	if (is(what, "assert"))
		assert(!"what holds");
	if (is(what, "double free"))
		free(freed = blocks[0]), free(freed);
	if (is(what, "raise"))
		raise(SIGABRT);
	if (is(what, "killed by ABRT"))
		kill(getpid(), SIGABRT), pause();
	if (is(what, "handles ABRT")) {
		signal(SIGABRT, on_end);
		raise(SIGABRT);
		return signal(SIGABRT, SIG_DFL) == on_end ? 17 : 1;
	}
	if (is(what, "thread")) {
		pthread_create(&thread, NULL, ends_it, NULL);
		for (;;)
			pause();
	}
	if (is(what, "busy")) {
		pthread_create(&thread, NULL, sleeps, NULL);
		return 8;
	}
	if (is(what, "two")) { /* threads end the process at once */
		pthread_create(&thread, NULL, ends_it, NULL);
		_exit(6);
	}
	if (is(what, "fork")) {
		pid_t child = fork();
		if (!child) {
			blocks[2] = malloc(66);
			exit(9);
		}
		return wait_for(child);
	}
	if (is(what, "vfork")) {
		pid_t child = vfork();
		if (!child)
			_exit(10);
		return wait_for(child);
	}
	if (is(what, "spawn")) {
		pid_t child;
		char *command[] = {arguments[0], "exit", NULL};
		if (posix_spawn(&child, arguments[0], NULL, NULL, command, environ))
			return 98;
		return wait_for(child);
	}
	if (is(what, "exec"))
		execl(arguments[0], arguments[0], "exit", NULL);
	if (is(what, "close")) {
		for (int fd = 0; fd < 1024; fd++)
			close(fd);
		return 11;
	}
	if (is(what, "exhaust")) {
		while (dup(0) >= 0)
			;
		return 12;
	}
	if (is(what, "limit")) {
		struct rlimit limit = {4ul << 30, 4ul << 30}, now;
		if (setrlimit(RLIMIT_AS, &limit) || getrlimit(RLIMIT_AS, &now) || now.rlim_cur != limit.rlim_cur)
			return 97;
		void *large = malloc(5ul << 30), *small = malloc(1 << 20);
		blocks[2] = small;
		return large ? 96 : small ? 13 : 95;
	}
	if (is(what, "data")) {
		struct rlimit limit = {1ul << 30, 1ul << 30};
		if (setrlimit(RLIMIT_DATA, &limit))
			return 97;
		return malloc(64 << 20) ? 14 : 95;
	}
	if (is(what, "lock")) {
		if (mlockall(MCL_CURRENT | MCL_FUTURE))
			return errno == ENOMEM || errno == EPERM ? 15 : 97;
		for (int i = 0; i < 1000; i++)
			blocks[2] = malloc(5000);
		return 15;
	}
	if (is(what, "errno")) {
		signal(SIGTERM, on_end);
		for (int i = 0; i < 100000; i++) {
			errno = 77;
			free(malloc(16 + i % 1000 * 16));
			if (errno != 77)
				return 97;
		}
		return 16;
	}
	return 0;
}
