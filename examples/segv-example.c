#include <stdio.h>

struct settings {
	int verbose;
	int port;
};

static struct settings *load(const char *path)
{
	(void)path;
	return NULL; /* "not found", and nobody looks */
}

int main(void)
{
	struct settings *settings = load("/etc/example.conf");
	printf("listening on port %d\n", settings->port);
	return 0;
}
