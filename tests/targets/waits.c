/* Waits in a system call that a careless stop would interrupt, and says how the call ended. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/epoll.h>
#include <sys/sem.h>
#include <sys/socket.h>

int main(int count, char **arguments)
{
	const char *mode = count > 1 ? arguments[1] : "";
	struct timespec second = {1, 0};
	long result = 0;
	free(malloc(10));
	puts("READY");
	fflush(stdout);
	errno = 0;
	if (!strcmp(mode, "epoll_wait")) {
		struct epoll_event event;
		result = epoll_wait(epoll_create1(0), &event, 1, 1000);
	} else if (!strcmp(mode, "recv")) {
		int pair[2];
		struct timeval timeout = {1, 0};
		char byte;
		socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
		setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
		result = recv(pair[0], &byte, 1, 0);
	} else if (!strcmp(mode, "semtimedop")) {
		int id = semget(IPC_PRIVATE, 1, 0600);
		struct sembuf operation = {0, -1, 0};
		result = semtimedop(id, &operation, 1, &second);
		int error = errno;
		semctl(id, 0, IPC_RMID);
		errno = error;
	} else if (!strcmp(mode, "sigtimedwait")) {
		sigset_t set;
		sigemptyset(&set);
		sigaddset(&set, SIGUSR1);
		result = sigtimedwait(&set, NULL, &second);
	} else if (!strcmp(mode, "nanosleep")) {
		result = nanosleep(&second, NULL);
	} else if (!strcmp(mode, "poll")) {
		result = poll(NULL, 0, 1000);
	}
	printf("%ld %s\n", result, result < 0 ? strerror(errno) : "done");
	return 0;
}
