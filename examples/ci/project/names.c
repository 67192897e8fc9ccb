#include "names.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

char *joined(const char *first, const char *last)
{
	size_t size = strlen(first) + strlen(last) + 2;
	char *name = malloc(size);
	if (name)
		snprintf(name, size, "%s %s", first, last);
	return name;
}

int greet(const char *first, const char *last)
{
	char *name = joined(first, last);
	int length = name ? printf("hello, %s\n", name) : -1;
	/* free(name) is missing */
	return length;
}
