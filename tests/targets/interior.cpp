/* Blocks that are kept by a pointer into them. HOLD waits to be looked at; without it the program ends, for valgrind. */
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <unistd.h>

struct First { virtual ~First() {} long first[3]; };
struct Second { virtual ~Second() {} long second[2]; };
struct Both : First, Second { long both[5]; };
struct Element { ~Element() { value[0] = 1; } long value[3]; };

static Second *second_bases[8];
static Element *arrays[8];
static char *with_length[8], *old_strings[8], *into_plain[8], *into_zeros[8];

static __attribute__((noinline)) void make()
{
	for (int i = 0; i < 8; i++) {
		second_bases[i] = new Both;
		arrays[i] = new Element[i + 2];
		size_t length = 100 + 13 * (size_t)i;
		size_t *sized = (size_t *)malloc(sizeof *sized + length);
		*sized = length;
		with_length[i] = (char *)(sized + 1);
		size_t *text = (size_t *)malloc(3 * sizeof *text + length + 1);
		text[0] = length - 5;
		text[1] = length;
		text[2] = 0;
		old_strings[i] = (char *)(text + 3);
		char *plain = (char *)malloc(200);
		memset(plain, 'x', 200);
		into_plain[i] = plain + 16;
		into_zeros[i] = (char *)calloc(1, 104) + 8;
	}
}

static __attribute__((noinline)) void scrub() { volatile char space[8192]; memset((char *)space, 0, sizeof space); }

int main()
{
	make();
	scrub();
	if (getenv("HOLD")) {
		puts("READY");
		fflush(stdout);
		pause();
	}
	return 0;
}
