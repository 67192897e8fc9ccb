/* The start: find out whether this program's allocator is glibc's, reserve memory, and begin. */
#define _GNU_SOURCE
#include "agent.h"

#include <string.h>

EXPORT struct agent_state leakline_agent_state = {
	.magic = AGENT_MAGIC,
	.version = AGENT_VERSION,
	.phase = AGENT_STARTING,
	.exit_status = -1,
};

extern void __libc_free(void *);
static uint32_t started;

static void say(const char *why, const char *detail)
{
	char *to = leakline_agent_state.why_off, *end = to + sizeof leakline_agent_state.why_off - 1;
	while (*why && to < end)
		*to++ = *why++;
	while (detail && *detail && to < end)
		*to++ = *detail++;
}

static struct agent_range code_of(const struct definition *function)
{
	uint64_t start = (uint64_t)function->address;
	return (struct agent_range){start, start + function->size};
}

static void turn_off(void)
{
	__atomic_store_n(&leakline_agent_state.phase, AGENT_OFF, __ATOMIC_RELEASE);
}

enum { MALLOC, CALLOC, REALLOC, MEMALIGN, ALIGNED_ALLOC, VALLOC, PVALLOC, POSIX_MEMALIGN, REALLOCARRAY, FREE, USABLE_SIZE, LIBC, FIND_OBJECT, ABORT, EXIT, QUICK_EXIT, N_WANTED };

static struct definition wanted[N_WANTED] = {
	[MALLOC] = {.name = "malloc"},
	[CALLOC] = {.name = "calloc"},
	[REALLOC] = {.name = "realloc"},
	[MEMALIGN] = {.name = "memalign"},
	[ALIGNED_ALLOC] = {.name = "aligned_alloc"},
	[VALLOC] = {.name = "valloc"},
	[PVALLOC] = {.name = "pvalloc"},
	[POSIX_MEMALIGN] = {.name = "posix_memalign"},
	[REALLOCARRAY] = {.name = "reallocarray"},
	[FREE] = {.name = "free"},
	[USABLE_SIZE] = {.name = "malloc_usable_size"},
	[LIBC] = {.name = "gnu_get_libc_version"},
	[FIND_OBJECT] = {.name = "_dl_find_object"},
	[ABORT] = {.name = "abort"},
	[EXIT] = {.name = "exit"},
	[QUICK_EXIT] = {.name = "quick_exit"},
};

/* What the program would call without us. A library that has malloc but not all of these gets glibc's for the rest, as it would. */
static void use_found_allocator(void)
{
	void **real = (void **)&leakline_real;
	for (int i = MALLOC; i <= REALLOCARRAY; i++)
		if (wanted[i].address && !wanted[i].is_in_front)
			real[i] = wanted[i].address;
}

void start_recording(void)
{
	if (__atomic_exchange_n(&started, 1, __ATOMIC_ACQ_REL))
		return;
	find_definitions(wanted, N_WANTED);
	leakline_real = libc_allocator;
	use_found_allocator();
	leakline_real_usable_size = (size_t (*)(void *))wanted[USABLE_SIZE].address;
	dl_find_object = (int (*)(void *, void *))wanted[FIND_OBJECT].address;
	real_abort = (void (*)(void))wanted[ABORT].address;
	real_quick_exit = (void (*)(int))wanted[QUICK_EXIT].address;
	exit_functions[0] = code_of(&wanted[EXIT]);
	exit_functions[1] = code_of(&wanted[QUICK_EXIT]);
	if (wanted[FREE].address && !wanted[FREE].is_in_front)
		leakline_real_free = (void (*)(void *))wanted[FREE].address;
	else
		leakline_real_free = __libc_free;
	if (wanted[MALLOC].is_in_front) {
		say("another allocator: ", wanted[MALLOC].module && *wanted[MALLOC].module ? wanted[MALLOC].module : "the program's own");
		turn_off();
		return;
	}
	int is_other = wanted[MALLOC].module != wanted[LIBC].module; /* tcmalloc has a __libc_malloc too */
	if (!reserve_memory(!is_other)) {
		say("no address space for the records: RLIMIT_AS, or vm.overcommit_memory", NULL);
		turn_off();
		return;
	}
	if (is_other) {
		leakline_agent_state.other_allocator = 1;
		say("another allocator: ", wanted[MALLOC].module);
	}
	if (tables.blocks)
		use_table();
	refresh_modules();
	find_loader();
	__atomic_store_n(&leakline_agent_state.phase, AGENT_RECORDING, __ATOMIC_RELEASE);
}

__attribute__((constructor)) static void construct(int count, char **arguments, char **environment)
{
	(void)count;
	(void)arguments;
	start_recording();
	note_first_stack(environment);
	set_up_exit(environment);
	hide_from_environment(environment);
}
