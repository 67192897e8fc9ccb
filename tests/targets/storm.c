/*
 * A busy program that checks itself: threads that allocate and free and look whether their blocks are whole, threads that start and end,
 * signals, forks, system calls that a stop may interrupt. A thread loses a block of 1,000 bytes each 10 ms. What happened so far stands in a file
 * that is mapped: struct tally. It ends at SIGTERM, with 0 if nothing was wrong.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct tally {
	_Atomic uint64_t lost;        /* blocks */
	_Atomic uint64_t errors;      /* damaged data, unexpected EINTR, failed calls */
	_Atomic uint64_t sent, taken; /* signals */
	_Atomic uint64_t rounds, threads, children;
	_Atomic uint64_t place[8]; /* the line of the last error of each kind */
} *tally;

static _Atomic int over;

#define EXPECT(kind, condition)                                                                                                                    \
	do {                                                                                                                                       \
		if (!(condition)) {                                                                                                                \
			tally->errors++;                                                                                                           \
			tally->place[kind] = __LINE__ * 1000 + errno;                                                                              \
		}                                                                                                                                  \
	} while (0)

static void nap(long ns)
{
	struct timespec left = {0, ns};
	EXPECT(0, !nanosleep(&left, NULL));
}

static void *allocate(void *seed)
{
	enum { SLOTS = 300 };
	unsigned chance = (unsigned)(uintptr_t)seed;
	unsigned char *blocks[SLOTS] = {0};
	size_t sizes[SLOTS] = {0};
	while (!over) {
		unsigned slot = (unsigned)rand_r(&chance) % SLOTS;
		for (size_t i = 0; i < sizes[slot]; i += 7)
			EXPECT(1, blocks[slot][i] == (unsigned char)(slot + sizes[slot]));
		if (chance & 64 && blocks[slot]) {
			free(blocks[slot]);
			blocks[slot] = NULL;
			sizes[slot] = 0;
		} else {
			sizes[slot] = 1 + (unsigned)rand_r(&chance) % (chance & 4095 ? 2000 : 300000);
			blocks[slot] = realloc(blocks[slot], sizes[slot]);
			memset(blocks[slot], (int)(slot + sizes[slot]), sizes[slot]);
		}
		if (!(++tally->rounds % 512))
			nap(100000);
	}
	for (int i = 0; i < SLOTS; i++)
		free(blocks[i]);
	return NULL;
}

static void *lose(void *unused)
{
	(void)unused;
	while (!over) {
		memset(malloc(1000), 0x5a, 1000);
		tally->lost++;
		nap(10000000);
	}
	return NULL;
}

static void *shortly(void *unused)
{
	(void)unused;
	free(malloc(100));
	tally->threads++;
	return NULL;
}

static void *churn(void *unused)
{
	(void)unused;
	while (!over) {
		pthread_t thread;
		EXPECT(2, !pthread_create(&thread, NULL, shortly, NULL));
		EXPECT(2, !pthread_join(thread, NULL));
		nap(3000000);
	}
	return NULL;
}

static void *divide(void *unused)
{
	(void)unused;
	while (!over) {
		int status = 0;
		pid_t child = fork();
		if (!child)
			_exit(7);
		EXPECT(3, child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 7);
		tally->children++;
		nap(20000000);
	}
	return NULL;
}

/* Signals that must all arrive: queued ones, each awaited by its own thread. */
static void *take(void *unused)
{
	sigset_t set;
	(void)unused;
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN);
	for (;;) {
		siginfo_t info;
		int number = sigwaitinfo(&set, &info);
		EXPECT(4, number == SIGRTMIN);
		if (number == SIGRTMIN && info.si_value.sival_int < 0)
			return NULL;
		tally->taken++;
	}
}

static void *send(void *unused)
{
	(void)unused;
	while (!over) {
		EXPECT(4, !sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = 1}));
		tally->sent++;
		nap(2000000);
	}
	sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = -1});
	return NULL;
}

/* Calls that return EINTR after a stop, unless that is hidden. */
static void *wait_for_bytes(void *unused)
{
	int ends[2];
	(void)unused;
	EXPECT(5, !pipe2(ends, O_CLOEXEC));
	while (!over) {
		char byte;
		struct pollfd one = {.fd = ends[0], .events = POLLIN};
		EXPECT(5, poll(&one, 1, 5) == 0);
		EXPECT(5, write(ends[1], "x", 1) == 1);
		EXPECT(5, read(ends[0], &byte, 1) == 1 && byte == 'x');
	}
	return NULL;
}

static void end(int number)
{
	(void)number;
	over = 1;
}

int main(int count, char **arguments)
{
	int file = count > 1 ? open(arguments[1], O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
	if (file < 0 || ftruncate(file, 4096))
		return 2;
	tally = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN);
	sigaddset(&set, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signal(SIGTERM, end);
	void *(*const work[])(void *) = {allocate, allocate, allocate, lose, churn, divide, take, send, wait_for_bytes};
	enum { WORKERS = sizeof work / sizeof *work };
	pthread_t threads[WORKERS];
	for (uintptr_t i = 0; i < WORKERS; i++)
		pthread_create(&threads[i], NULL, work[i], (void *)(i + 1));
	puts("READY");
	fflush(stdout);
	close(1);
	sigdelset(&set, SIGRTMIN);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	while (!over)
		pause();
	for (int i = 0; i < WORKERS; i++)
		pthread_join(threads[i], NULL);
	EXPECT(6, tally->sent == tally->taken);
	return tally->errors != 0;
}
