/* A list whose only pointer is in a register while the program waits in the kernel, and the vector registers hold another. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct node {
	struct node *next;
	char rest[992];
};

__attribute__((noinline)) static struct node *build(void)
{
	struct node *list = NULL;
	for (int i = 0; i < 50; i++) {
		struct node *node = malloc(sizeof *node);
		node->next = list;
		list = node;
	}
	return list;
}

__attribute__((noinline)) static void wipe(void)
{
	volatile char stack[16384];
	for (unsigned i = 0; i < sizeof stack; i++)
		stack[i] = 0;
}

int main(void)
{
	register struct node *list __asm__("r12") = build();
	__asm__ volatile("" : "+r"(list));
	wipe();
	puts("READY");
	fflush(stdout);
	wipe();
	for (;;) {
		long result;
		__asm__ volatile("syscall" : "=a"(result), "+r"(list) : "a"(34L) : "rcx", "r11", "memory"); /* pause */
	}
}
