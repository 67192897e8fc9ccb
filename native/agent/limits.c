/*
 * The reservation counts as address space: a limit on that (RLIMIT_AS) is passed on with it added, and shown without it. A program that
 * locks its memory gets all but the agent's locked.
 */
#define _GNU_SOURCE
#include "agent.h"
#include "syscalls.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/resource.h>

static int answer(long result)
{
	if (result >= 0)
		return (int)result;
	errno = (int)-result;
	return -1;
}

static int is_own(long pid)
{
	return pid == 0 || pid == syscall_0(SYS_getpid);
}

static rlim_t add(rlim_t limit)
{
	return limit > RLIM_INFINITY - reserved_bytes ? RLIM_INFINITY : limit + reserved_bytes;
}

static rlim_t subtract(rlim_t limit)
{
	return limit == RLIM_INFINITY || limit < reserved_bytes ? limit : limit - reserved_bytes;
}

static int limit(long pid, int resource, const struct rlimit *wanted, struct rlimit *old)
{
	struct rlimit more;
	int shift = resource == RLIMIT_AS && reserved_bytes && is_own(pid);
	if (wanted && shift) {
		more = (struct rlimit){add(wanted->rlim_cur), add(wanted->rlim_max)};
		wanted = &more;
	}
	int result = answer(syscall_4(SYS_prlimit64, pid, resource, (long)wanted, (long)old));
	if (!result && old && shift)
		*old = (struct rlimit){subtract(old->rlim_cur), subtract(old->rlim_max)};
	return result;
}

/* On x86-64 the functions with 64 in their names are the same. */
EXPORT int setrlimit(__rlimit_resource_t resource, const struct rlimit *wanted)
{
	return limit(0, (int)resource, wanted, NULL);
}

EXPORT int getrlimit(__rlimit_resource_t resource, struct rlimit *old)
{
	return limit(0, (int)resource, NULL, old);
}

EXPORT int prlimit(__pid_t pid, enum __rlimit_resource resource, const struct rlimit *wanted, struct rlimit *old)
{
	return limit(pid, (int)resource, wanted, old);
}

EXPORT int setrlimit64(__rlimit_resource_t resource, const struct rlimit64 *wanted)
{
	return limit(0, (int)resource, (const struct rlimit *)wanted, NULL);
}

EXPORT int getrlimit64(__rlimit_resource_t resource, struct rlimit64 *old)
{
	return limit(0, (int)resource, NULL, (struct rlimit *)old);
}

EXPORT int prlimit64(__pid_t pid, enum __rlimit_resource resource, const struct rlimit64 *wanted, struct rlimit64 *old)
{
	return limit(pid, (int)resource, (const struct rlimit *)wanted, (struct rlimit *)old);
}

EXPORT int mlockall(int flags)
{
	int result = answer(syscall_3(SYS_mlockall, flags, 0, 0));
	const struct agent_range *own = &leakline_agent_state.own[0];
	if (!result && reserved_bytes)
		syscall_3(SYS_munlock, (long)own->start, (long)(own->end - own->start), 0);
	return result;
}
