/* Loses blocks in memory that others had before, or keeps one by all that malloc gave. */
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

struct node {
	struct node *next, *before;
	char *data;
};

static struct node *volatile kept;

__attribute__((noinline)) static void lose(void)
{
	struct node *node = malloc(sizeof *node);
	node->data = malloc(200);
	free(node);
	char *small = malloc(20); /* the same memory: the pointer lies behind what it asked for, or partly */
	memset(small, 1, 16);
}

__attribute__((noinline)) static void keep(void)
{
	struct node *node = calloc(1, 20);
	if (malloc_usable_size(node) >= sizeof *node)
		node->data = malloc(200);
	kept = node;
}

int main(int count, char **arguments)
{
	if (count > 1 && !strcmp(arguments[1], "keep"))
		keep();
	else
		lose();
	return 0;
}
