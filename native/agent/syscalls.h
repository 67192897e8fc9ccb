/* System calls that leave errno alone, and that nobody interposes. They return a negative errno. */
#ifndef LEAKLINE_SYSCALLS_H
#define LEAKLINE_SYSCALLS_H

#include <stdint.h>
#include <sys/syscall.h>

static inline long syscall_6(long number, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long result;
	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

static inline long syscall_4(long number, long a, long b, long c, long d)
{
	return syscall_6(number, a, b, c, d, 0, 0);
}

static inline long syscall_3(long number, long a, long b, long c)
{
	return syscall_6(number, a, b, c, 0, 0, 0);
}

static inline long syscall_0(long number)
{
	return syscall_6(number, 0, 0, 0, 0, 0, 0);
}

#endif
