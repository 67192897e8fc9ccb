// Loses blocks that libraries allocate for it: by operator new, by strdup, by std::string. The lines are marked.
#include <cstdio>
#include <cstring>
#include <string>
#include <unistd.h>

struct Session {
	virtual ~Session() {}
	char rest[600];
};

static void *volatile sink;

__attribute__((noinline)) void lose_object()
{
	sink = new Session; // by new
	sink = nullptr;
}

__attribute__((noinline)) void lose_copy(const char *text)
{
	sink = strdup(text); // by strdup
	sink = nullptr;
}

__attribute__((noinline)) void lose_string(unsigned size)
{
	sink = new std::string(size, 'x'); // by string
	sink = nullptr;
}

int main()
{
	char text[900];
	memset(text, 'a', sizeof text);
	text[sizeof text - 1] = 0;
	puts("READY");
	fflush(stdout);
	for (;;) {
		lose_object();
		lose_copy(text);
		lose_string(2000);
		usleep(10000);
	}
}
