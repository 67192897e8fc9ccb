/* Loses 4 blocks of 100 bytes below a function that has no call frame information. */
#include <stdlib.h>
#include <string.h>

void lose(void)
{
	for (int i = 0; i < 4; i++)
		memset(malloc(100), 1, 100);
}

void bare(void);
__asm__(".text\n"
	".globl bare\n"
	".type bare, @function\n"
	"bare:\n"
	"subq $24, %rsp\n"
	"call lose\n"
	"addq $24, %rsp\n"
	"ret\n"
	".size bare, . - bare\n");

__attribute__((noinline)) static void wipe(void)
{
	volatile char stack[16384];
	memset((char *)stack, 0, sizeof stack);
}

int main(void)
{
	bare();
	wipe();
	return 0;
}
