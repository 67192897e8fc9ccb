/* A 32-bit program without any library: waits for ever. */
void _start(void)
{
	struct { int seconds, nanoseconds; } second = {1, 0};
	for (;;) {
		int result;
		__asm__ volatile("int $0x80" : "=a"(result) : "a"(162), "b"(&second), "c"(0) : "memory");
	}
}
