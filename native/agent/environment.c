/*
 * The program's environment is what it would be without the agent: the variables that brought the agent here are taken out before main, and
 * put into that of every program which is started from here and is to be followed.
 *
 * Whoever starts a program by a system call of its own starts it without the agent.
 */
#define _GNU_SOURCE
#include "agent.h"
#include "syscalls.h"

#include <alloca.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PREFIX "LEAKLINE_AGENT_"
#define PRELOAD "LD_PRELOAD="
enum { MOST_VARIABLES = 5, LONGEST = 256, MOST_ROOM = 1 << 18 };

static char library[4096]; /* as LD_PRELOAD names it; empty: nothing is put anywhere */
static char variables[MOST_VARIABLES][LONGEST];
static size_t n_variables;

enum { EXECVPE, SPAWN, SPAWNP, SYSTEM, POPEN, N_REAL };
static struct definition real[N_REAL] = {
	[EXECVPE] = {.name = "execvpe"}, [SPAWN] = {.name = "posix_spawn"}, [SPAWNP] = {.name = "posix_spawnp"},
	[SYSTEM] = {.name = "system"},   [POPEN] = {.name = "popen"},
};

static void *found(int which)
{
	if (!real[which].address)
		find_definitions(real, N_REAL);
	return real[which].address;
}

static int begins(const char *text, const char *with)
{
	return !strncmp(text, with, strlen(with));
}

/* The path of this library within a list of libraries, and its length. */
static const char *find_library(const char *list, size_t *length)
{
	while (*list) {
		size_t n = strcspn(list, ": ");
		const char *name = list + n;
		while (name > list && name[-1] != '/')
			name--;
		if (begins(name, "libleakline-agent")) {
			*length = n;
			return list;
		}
		list += n + (list[n] != 0);
	}
	return NULL;
}

static void keep(const char *entry)
{
	if (n_variables < MOST_VARIABLES && strlen(entry) < LONGEST)
		memcpy(variables[n_variables++], entry, strlen(entry) + 1);
}

/* Without this library, in place; returns 0 if nothing else is left. */
static int take_out_library(char *list)
{
	size_t length;
	char *at = (char *)find_library(list, &length);
	if (!at || length >= sizeof library)
		return 1;
	memcpy(library, at, length);
	library[length] = 0;
	if (at == list && !at[length])
		return 0;
	if (at[length])
		memmove(at, at + length + 1, strlen(at + length + 1) + 1);
	else
		at[-1] = 0;
	return 1;
}

/*
 * Let the entries end where they did: behind the kernel's own list lies the auxiliary vector, and there are programs that look for it there.
 * The places in front, which only who counts from argv sees, repeat an entry.
 */
static void move_to_end(size_t n, size_t removed)
{
	static char nothing[1];
	memmove(environ + removed, environ, n * sizeof *environ);
	for (size_t i = 0; i < removed; i++)
		environ[i] = n ? environ[removed] : nothing;
	environ += removed;
	environ[n] = NULL;
}

/* Called before main, with the list that the kernel made. */
void hide_from_environment(char **initial)
{
	int is_followed = 0;
	for (char **entry = environ; entry && *entry; entry++)
		is_followed |= begins(*entry, PREFIX "SOCKET=");
	if (!is_followed)
		return;
	char **to = environ, **entry = environ;
	for (; *entry; entry++) {
		if (begins(*entry, PREFIX)) {
			if (!begins(*entry, PREFIX "ROOT="))
				keep(*entry);
		} else if (!begins(*entry, PRELOAD) || take_out_library(*entry + strlen(PRELOAD))) {
			*to++ = *entry;
		}
	}
	*to = NULL;
	if (environ == initial)
		move_to_end((size_t)(to - environ), (size_t)(entry - to));
	char line[LONGEST];
	*put_number(put_text(line, PREFIX "ROOT="), (uint64_t)root_process(), 10) = 0;
	keep(line);
	found(EXECVPE);
}

static const char *preloaded(char *const *environment)
{
	for (; environment && *environment; environment++)
		if (begins(*environment, PRELOAD))
			return *environment + strlen(PRELOAD);
	return NULL;
}

/* In another root, or as another user, the loader may not be able to, and would complain. */
static int can_be_loaded(void)
{
	return library[0] && !syscall_3(SYS_access, (long)library, R_OK, 0);
}

/* Bytes that put_agent writes; 0: it has no place here. */
static size_t room(char *const *environment, int is_child)
{
	size_t n = 0, length;
	const char *others = preloaded(environment);
	if (!is_to_follow(is_child) || !can_be_loaded() || (others && find_library(others, &length)))
		return 0;
	while (environment && environment[n])
		n++;
	n = (n + MOST_VARIABLES + 2) * sizeof *environment + strlen(PRELOAD) + strlen(library) + (others ? strlen(others) : 0) + 2;
	return n <= MOST_ROOM ? n : 0;
}

static char *put_preload(char *to, const char *others)
{
	to = put_text(put_text(to, PRELOAD), library);
	if (others)
		to = put_text(put_text(to, ":"), others);
	*to = 0;
	return to;
}

static char *const *put_agent(char *const *environment, void *space, size_t size)
{
	if (!size)
		return environment;
	char **to = space, *line = NULL;
	size_t n = 0;
	while (environment && environment[n])
		n++;
	line = (char *)(to + n + MOST_VARIABLES + 2);
	put_preload(line, preloaded(environment));
	int is_placed = 0;
	for (size_t i = 0; i < n; i++) {
		int is_list = begins(environment[i], PRELOAD);
		*to++ = is_list ? line : environment[i];
		is_placed |= is_list;
	}
	if (!is_placed)
		*to++ = line;
	for (size_t i = 0; i < n_variables; i++)
		*to++ = variables[i];
	*to = NULL;
	return space;
}

/* In the caller's frame: between vfork and exec there is no other memory. */
#define WITH_AGENT(environment, is_child)                                                                                                            \
	({                                                                                                                                           \
		size_t size_ = room(environment, is_child);                                                                                          \
		put_agent(environment, size_ ? alloca(size_) : NULL, size_);                                                                         \
	})

/*
 * Whether a file is of a kind that takes the agent: anything but a program for another machine, whose loader would complain, and one without a
 * loader (PT_INTERP), which would see our variables and no agent to hide them. A loader that is started by name has none either.
 */
static int takes_agent(const char *path)
{
	union {
		Elf64_Ehdr head;
		unsigned char bytes[2048];
	} file;
	memset(&file.head, 0, sizeof file.head);
	long fd = syscall_4(SYS_openat, AT_FDCWD, (long)path, O_RDONLY | O_CLOEXEC, 0);
	if (fd < 0)
		return 1;
	long n = syscall_3(SYS_read, fd, (long)file.bytes, sizeof file.bytes);
	syscall_3(SYS_close, fd, 0, 0);
	if (n < (long)sizeof file.head || memcmp(file.bytes, ELFMAG, SELFMAG))
		return 1;
	if (file.head.e_ident[EI_CLASS] != ELFCLASS64 || file.head.e_machine != EM_X86_64)
		return 0;
	const char *name = strrchr(path, '/');
	if (begins(name ? name + 1 : path, "ld"))
		return 1;
	for (uint64_t i = 0; i < file.head.e_phnum; i++) {
		uint64_t at = file.head.e_phoff + i * sizeof(Elf64_Phdr);
		Elf64_Phdr segment;
		if (at < file.head.e_phoff || at + sizeof segment > (uint64_t)n)
			return 1; /* too far behind to be read here */
		memcpy(&segment, file.bytes + at, sizeof segment);
		if (segment.p_type == PT_INTERP)
			return 1;
	}
	return 0;
}

static int failed(long result)
{
	errno = (int)-result;
	return -1;
}

EXPORT int execve(const char *path, char *const arguments[], char *const environment[])
{
	char *const *with = takes_agent(path) ? WITH_AGENT(environment, 0) : environment;
	return failed(syscall_3(SYS_execve, (long)path, (long)arguments, (long)with));
}

EXPORT int execveat(int folder, const char *path, char *const arguments[], char *const environment[], int flags)
{
	char *const *with = WITH_AGENT(environment, 0);
	return failed(syscall_6(SYS_execveat, folder, (long)path, (long)arguments, (long)with, flags, 0));
}

EXPORT int fexecve(int fd, char *const arguments[], char *const environment[])
{
	if (fd < 0)
		return failed(-EINVAL);
	return execveat(fd, "", arguments, environment, AT_EMPTY_PATH);
}

EXPORT int execv(const char *path, char *const arguments[])
{
	return execve(path, arguments, environ);
}

EXPORT int execvpe(const char *file, char *const arguments[], char *const environment[])
{
	int (*next)(const char *, char *const[], char *const[]) = (int (*)(const char *, char *const[], char *const[]))found(EXECVPE);
	return next ? next(file, arguments, WITH_AGENT(environment, 0)) : failed(-ENOSYS);
}

EXPORT int execvp(const char *file, char *const arguments[])
{
	return execvpe(file, arguments, environ);
}

static size_t count(const char *first, va_list *list)
{
	size_t n = 0;
	for (const char *argument = first; argument; argument = va_arg(*list, const char *))
		n++;
	return n;
}

static void gather(const char *first, va_list *list, size_t n, char **arguments)
{
	for (size_t i = 0; i <= n; i++)
		arguments[i] = i ? va_arg(*list, char *) : (char *)first;
}

/* The list of arguments as an array in the caller's frame; `list` is behind its end then. */
#define GATHER(first, list, arguments)                                                                                                               \
	va_list list;                                                                                                                                \
	va_start(list, first);                                                                                                                       \
	size_t n_ = count(first, &list);                                                                                                             \
	va_end(list);                                                                                                                                \
	char **arguments = alloca((n_ + 1) * sizeof *arguments);                                                                                     \
	va_start(list, first);                                                                                                                       \
	gather(first, &list, n_, arguments)

EXPORT int execl(const char *path, const char *argument, ...)
{
	GATHER(argument, list, arguments);
	va_end(list);
	return execve(path, arguments, environ);
}

EXPORT int execlp(const char *file, const char *argument, ...)
{
	GATHER(argument, list, arguments);
	va_end(list);
	return execvpe(file, arguments, environ);
}

EXPORT int execle(const char *path, const char *argument, ...)
{
	GATHER(argument, list, arguments);
	char *const *environment = va_arg(list, char *const *);
	va_end(list);
	return execve(path, arguments, environment);
}

typedef int (*spawner)(pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *, char *const[], char *const[]);

EXPORT int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions, const posix_spawnattr_t *attributes, char *const arguments[],
		       char *const environment[])
{
	spawner next = (spawner)found(SPAWN);
	char *const *with = takes_agent(path) ? WITH_AGENT(environment, 1) : environment;
	return next ? next(pid, path, actions, attributes, arguments, with) : ENOSYS;
}

EXPORT int posix_spawnp(pid_t *pid, const char *file, const posix_spawn_file_actions_t *actions, const posix_spawnattr_t *attributes, char *const arguments[],
			char *const environment[])
{
	spawner next = (spawner)found(SPAWNP);
	return next ? next(pid, file, actions, attributes, arguments, WITH_AGENT(environment, 1)) : ENOSYS;
}

static char *put_quoted(char *to, const char *text)
{
	*to++ = '\'';
	for (; *text; text++) {
		if (*text == '\'')
			to = put_text(to, "'\\'");
		*to++ = *text;
	}
	*to++ = '\'';
	*to = 0;
	return to;
}

static char *put_assignment(char *to, const char *entry)
{
	const char *value = strchr(entry, '=') + 1;
	while (entry < value)
		*to++ = *entry++;
	return put_text(put_quoted(to, value), " ");
}

/*
 * glibc starts the shell of system(3) and popen(3) by itself, with the program's environment: let that shell start another with the agent, in
 * its own place. Returns the command as it is where it is not to be followed, or there is no room.
 */
static const char *wrap(const char *command, size_t *mapped)
{
	*mapped = 0;
	size_t size = command ? room(environ, 1) : 0;
	if (!size)
		return command;
	const char *others = preloaded(environ);
	*mapped = 4 * (strlen(command) + strlen(library) + (others ? strlen(others) : 0) + MOST_VARIABLES * LONGEST) + 8192;
	long space = syscall_6(SYS_mmap, 0, (long)*mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (space < 0 && space > -4096) {
		*mapped = 0;
		return command;
	}
	char *line = (char *)space, *to = line + *mapped / 2;
	put_preload(to, others);
	to = put_assignment(line, to);
	for (size_t i = 0; i < n_variables; i++)
		to = put_assignment(to, variables[i]);
	put_text(put_quoted(put_text(to, "exec /bin/sh -c -- "), command), " sh");
	if (strlen(line) < 131072 - 1) /* MAX_ARG_STRLEN (include/uapi/linux/binfmts.h) */
		return line;
	syscall_3(SYS_munmap, space, (long)*mapped, 0);
	*mapped = 0;
	return command;
}

EXPORT int system(const char *command)
{
	size_t mapped;
	int (*next)(const char *) = (int (*)(const char *))found(SYSTEM);
	const char *wrapped = wrap(command, &mapped);
	int status = next ? next(wrapped) : failed(-ENOSYS);
	if (mapped)
		syscall_3(SYS_munmap, (long)wrapped, (long)mapped, 0);
	return status;
}

EXPORT FILE *popen(const char *command, const char *mode)
{
	size_t mapped;
	FILE *(*next)(const char *, const char *) = (FILE * (*)(const char *, const char *)) found(POPEN);
	const char *wrapped = wrap(command, &mapped);
	FILE *stream = NULL;
	if (next)
		stream = next(wrapped, mode);
	else
		failed(-ENOSYS);
	if (mapped)
		syscall_3(SYS_munmap, (long)wrapped, (long)mapped, 0);
	return stream;
}
