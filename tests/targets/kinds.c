/* Known to the byte: 20 lost lists of 3 blocks (definite 20 x 100, indirect 40 x 200), 5 held inside only (possible), 7 held. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct node {
	struct node *next;
	char rest[];
};

static char *inside[5];
static void *held[7];

__attribute__((noinline)) static void lose_list(void)
{
	struct node *first = malloc(100), *second = malloc(200), *third = malloc(200);
	first->next = second;
	second->next = third;
	third->next = NULL;
	__asm__ volatile("" : : "r"(first) : "memory"); /* or an optimiser leaves the whole list out */
}

__attribute__((noinline)) static void hold(void)
{
	for (int i = 0; i < 5; i++)
		inside[i] = (char *)malloc(300) + 50;
	for (int i = 0; i < 7; i++)
		held[i] = malloc(400);
}

__attribute__((noinline)) static void wipe(void)
{
	volatile char stack[16384];
	for (unsigned i = 0; i < sizeof stack; i++)
		stack[i] = 0;
}

int main(void)
{
	for (int i = 0; i < 20; i++)
		lose_list();
	hold();
	wipe();
	puts("READY");
	fflush(stdout);
	if (getenv("HOLD"))
		for (;;)
			pause();
	return 0;
}
