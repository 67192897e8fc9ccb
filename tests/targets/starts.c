/* Starts what is named by each way to start a program, one after the other; or names its own environment. */
#define _GNU_SOURCE
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

int main(int count, char **arguments)
{
	if (count == 1) {
		char **entry = environ;
		for (; *entry; entry++)
			puts(*entry);
		/* The auxiliary vector lies behind it, and holds the size of a page (AT_PAGESZ). */
		for (unsigned long *auxiliary = (unsigned long *)(entry + 1); *auxiliary; auxiliary += 2)
			if (*auxiliary == 6)
				printf("pages of %lu\n", auxiliary[1]);
		return 0;
	}
	char *program = arguments[1], *both[] = {program, NULL}, *bare[] = {"BARE=1", NULL}, line[4200];
	for (int how = 0; how < 12; how++) {
		pid_t pid = 0;
		printf("%d:\n", how);
		fflush(stdout);
		snprintf(line, sizeof line, "'%s'; test \"$0\" = sh && echo \"it's $0\"", program);
		if (how == 8)
			posix_spawn(&pid, program, NULL, NULL, both, environ);
		else if (how == 9)
			posix_spawnp(&pid, program, NULL, NULL, both, bare);
		else if (how == 10 && system(line))
			return 1;
		else if (how == 11) {
			char text[4096];
			FILE *from = popen(line, "r");
			while (fgets(text, sizeof text, from))
				fputs(text, stdout);
			pclose(from);
		} else if (how < 8 && !(pid = how % 2 ? vfork() : fork())) {
			if (how == 0)
				execve(program, both, environ);
			if (how == 1)
				execve(program, both, bare);
			if (how == 2)
				execv(program, both);
			if (how == 3)
				execvp(program, both);
			if (how == 4)
				execvpe(program, both, bare);
			if (how == 5)
				execl(program, program, NULL);
			if (how == 6)
				execlp(program, program, NULL);
			if (how == 7)
				execle(program, program, NULL, bare);
			_exit(127);
		}
		if (pid)
			waitpid(pid, NULL, 0);
	}
	return 0;
}
