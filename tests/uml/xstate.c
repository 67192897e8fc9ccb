/* Preloaded into user-mode Linux 6.12, so that it runs on every x86 processor.
 *
 * It saves and restores the extended registers of its processes in 2,696 bytes (HOST_FP_SIZE, arch/x86/um/user-offsets.c). Where
 * the processor has more (AMX), the host refuses to set fewer bytes than there are (arch/x86/kernel/fpu/regset.c,
 * xstateregs_set()), and init dies of SIGSEGV. Here what is missing is read before, and written back as it was. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

enum { LARGEST = 1 << 16 };

static long real(int request, pid_t pid, void *address, void *data)
{
	static long (*next)(int, pid_t, void *, void *);

	if (!next)
		next = (long (*)(int, pid_t, void *, void *))dlsym(RTLD_NEXT, "ptrace");
	return next(request, pid, address, data);
}

long ptrace(enum __ptrace_request request, ...)
{
	static char whole[LARGEST];
	struct iovec all = { whole, sizeof whole }, *asked;
	va_list arguments;

	va_start(arguments, request);
	pid_t pid = va_arg(arguments, pid_t);
	void *address = va_arg(arguments, void *), *data = va_arg(arguments, void *);
	va_end(arguments);
	if ((request != PTRACE_GETREGSET && request != PTRACE_SETREGSET) || (long)address != NT_X86_XSTATE)
		return real(request, pid, address, data);
	asked = data;
	long result = real(PTRACE_GETREGSET, pid, address, &all);
	if (result < 0 || all.iov_len <= asked->iov_len)
		return real(request, pid, address, data);
	if (request == PTRACE_GETREGSET) {
		memcpy(asked->iov_base, whole, asked->iov_len);
		return result;
	}
	memcpy(whole, asked->iov_base, asked->iov_len);
	return real(PTRACE_SETREGSET, pid, address, &all);
}
