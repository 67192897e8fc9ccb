/* Compiled twice, with another NAME of the same length: libraries that differ in nothing that their layout depends on. */
#include <stdlib.h>

__attribute__((noinline)) void *NAME(void)
{
	void *block = malloc(88);
	__asm__ volatile("" : "+r"(block));
	return block;
}

void *entry(void)
{
	void *block = NAME();
	__asm__ volatile("" : "+r"(block));
	return block;
}
