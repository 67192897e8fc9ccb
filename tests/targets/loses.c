/* Loses a block of 5,000 bytes 50 times a second, and answers on stdin: every line that comes in goes out again. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

__attribute__((noinline)) static void lose(void)
{
	char *volatile block = malloc(5000);
	block[0] = 1;
	block = NULL;
}

int main(void)
{
	char line[64];
	setvbuf(stdout, NULL, _IONBF, 0);
	puts("READY");
	for (;;) {
		struct pollfd input = {.fd = 0, .events = POLLIN};
		lose();
		if (poll(&input, 1, 20) == 1 && input.revents & POLLIN && fgets(line, sizeof line, stdin))
			fputs(line, stdout);
	}
}
