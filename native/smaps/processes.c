/*
 * One pass over all processes: smaps_rollup (fs/proc/task_mmu.c), stat and cmdline (fs/proc/array.c, base.c) of each.
 *
 * This only takes what the kernel ordinarily answers. Every other process is left: then leakline/sources/process_table.py looks at
 * it again by itself, which knows the threads behind a zombie, older kernels, long command lines, and what every error means.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BUFFER 65536 /* as slurp() of leakline/sources/rollup.py reads: what fills it may be longer */
#define PF_KTHREAD 0x00200000u
#define UNKNOWN (-1)

enum status { READ, UNREADABLE, KERNEL_THREAD, ZOMBIE, LEFT };

/* Amounts in the order in which ProcessMemory has them; UNKNOWN for those that this kernel does not tell. */
enum amount {
	VSS, RSS, PSS, USS, SWAP, SWAP_PSS, PSS_ANON, PSS_FILE, PSS_SHMEM, LAZY_FREE, THP, HUGETLB, LOCKED, KSM, AMOUNTS,
	PRIVATE_CLEAN = AMOUNTS, PRIVATE_DIRTY, SHARED_HUGETLB, PRIVATE_HUGETLB, READ_AMOUNTS
};

struct process {
	int64_t status;
	int64_t names_at, command_length, command_end; /* the end of the command line too; UNKNOWN for one that is empty */
	int64_t plain; /* both are printable ASCII without quotes and backslashes */
	int64_t pid, ppid, uid;
	int64_t amounts[AMOUNTS];
	int64_t threads, start_ticks;
};

struct processes {
	struct process *rows;
	size_t n_rows, rows_room;
	char *names;
	size_t names_size, names_room;
	char stat[BUFFER], other[BUFFER];
};

struct stat_fields {
	const char *command;
	size_t command_length;
	char state;
	int64_t ppid, flags, threads, start_ticks, vss, rss_pages;
};

#define KEY(name, amount) {name ":", sizeof name, amount}
/* In the order in which Linux 6.18 writes them. */
static const struct key {
	const char *text;
	size_t length;
	int amount;
} keys[] = {
	KEY("Rss", RSS),
	KEY("Pss", PSS),
	KEY("Pss_Anon", PSS_ANON),
	KEY("Pss_File", PSS_FILE),
	KEY("Pss_Shmem", PSS_SHMEM),
	KEY("Private_Clean", PRIVATE_CLEAN),
	KEY("Private_Dirty", PRIVATE_DIRTY),
	KEY("KSM", KSM),
	KEY("LazyFree", LAZY_FREE),
	KEY("AnonHugePages", THP),
	KEY("Shared_Hugetlb", SHARED_HUGETLB),
	KEY("Private_Hugetlb", PRIVATE_HUGETLB),
	KEY("Swap", SWAP),
	KEY("SwapPss", SWAP_PSS),
	KEY("Locked", LOCKED),
};
#define KEYS (sizeof keys / sizeof *keys)

/* Bytes of a file, all of it; UNKNOWN with errno, EFBIG for one that may be longer than the buffer. */
static ssize_t read_all(int folder, const char *name, char *buffer)
{
	int file = openat(folder, name, O_RDONLY | O_CLOEXEC);
	if (file < 0)
		return UNKNOWN;
	ssize_t size = read(file, buffer, BUFFER);
	int error = size == BUFFER ? EFBIG : errno;
	close(file);
	errno = error;
	return size == BUFFER ? UNKNOWN : size;
}

/* A number of 1 to 15 digits, so that it is one in bytes too. Returns what follows, or NULL. */
static const char *decimal(const char *at, const char *end, int64_t *value)
{
	const char *first = at;
	int64_t sum = 0;
	while (at < end && *at >= '0' && *at <= '9' && at - first < 16)
		sum = sum * 10 + (*at++ - '0');
	*value = sum;
	return at == first || at - first > 15 ? NULL : at;
}

/* The head's line of smaps_rollup: `start-end ---p 00000000 00:00 0    [rollup]`. Returns what follows, or NULL. */
static const char *after_head(const char *at, const char *end)
{
	static const char middle[] = " ---p 00000000 00:00 0 ", name[] = "[rollup]\n";
	int dashes = 0;
	for (; at < end && *at != ' '; at++) {
		if (*at == '-')
			dashes++;
		else if (!((*at >= '0' && *at <= '9') || (*at >= 'a' && *at <= 'f')))
			return NULL;
	}
	if (dashes != 1 || (size_t)(end - at) < sizeof middle - 1 || memcmp(at, middle, sizeof middle - 1))
		return NULL;
	for (at += sizeof middle - 1; at < end && *at == ' '; at++)
		;
	return (size_t)(end - at) < sizeof name - 1 || memcmp(at, name, sizeof name - 1) ? NULL : at + sizeof name - 1;
}

/* smaps_rollup, every line `Key:   123 kB`; keys that are not ours are passed over. */
static int parse_rollup(const char *at, const char *end, int64_t amounts[READ_AMOUNTS])
{
	size_t expected = 0, met = 0;
	for (int i = 0; i < READ_AMOUNTS; i++)
		amounts[i] = UNKNOWN;
	if (!(at = after_head(at, end)))
		return 0;
	while (at < end) {
		const char *key = at;
		while (at < end && ((*at >= 'a' && *at <= 'z') || (*at >= 'A' && *at <= 'Z') || *at == '_'))
			at++;
		if (at == key || at == end || *at != ':')
			return 0;
		size_t length = (size_t)(++at - key);
		const char *padding = at;
		while (at < end && *at == ' ')
			at++;
		int64_t value;
		if (at == padding || !(at = decimal(at, end, &value)) || end - at < 4 || memcmp(at, " kB\n", 4))
			return 0;
		at += 4;
		for (size_t tried = 0; tried < KEYS; tried++) {
			size_t i = (expected + tried) % KEYS;
			if (keys[i].length != length || memcmp(keys[i].text, key, length))
				continue;
			if (amounts[keys[i].amount] != UNKNOWN)
				return 0;
			amounts[keys[i].amount] = value << 10;
			expected = i + 1;
			met++;
			break;
		}
	}
	return met >= 2;
}

/* /proc/PID/stat: the command ends at the last parenthesis. */
static int parse_stat(const char *data, size_t size, struct stat_fields *s)
{
	const char *end = data + size, *open = memchr(data, '(', size), *close = memrchr(data, ')', size);
	int64_t ignored;
	const char *at = decimal(data, end, &ignored);
	if (!open || !close || close < open || !at || at + 1 != open || *at != ' ')
		return 0;
	s->command = open + 1;
	s->command_length = (size_t)(close - open - 1);
	at = close + 1;
	if (end - at < 3 || at[0] != ' ' || at[1] <= ' ' || at[1] > '~' || at[2] != ' ')
		return 0;
	s->state = at[1];
	at += 2;
	int64_t fields[22] = {0}; /* [1] is the parent, field 4 in proc(5) */
	for (int i = 1; i < 22; i++) {
		if (at == end || *at++ != ' ')
			return 0;
		int negative = at < end && *at == '-';
		if (!(at = decimal(at + negative, end, &fields[i])))
			return 0;
		if (negative)
			fields[i] = UNKNOWN;
	}
	if (at == end || (*at != ' ' && *at != '\n'))
		return 0;
	s->ppid = fields[1];
	s->flags = fields[6];
	s->threads = fields[17];
	s->start_ticks = fields[19];
	s->vss = fields[20];
	s->rss_pages = fields[21];
	return s->ppid >= 0 && s->flags >= 0 && fields[7] >= 0 && fields[9] >= 0 && s->threads >= 0 && s->start_ticks >= 0 &&
	       s->vss >= 0 && s->rss_pages >= 0;
}

/* The command and the command line, without zeros at its end, those within it as spaces. */
static int keep_names(struct processes *all, struct process *row, const struct stat_fields *s, const char *line, size_t size)
{
	size_t needed = s->command_length + size, at = all->names_size;
	if (all->names_room - at <= needed) {
		size_t room = all->names_room * 2 + needed + 1;
		char *larger = realloc(all->names, room);
		if (!larger)
			return 0;
		all->names = larger;
		all->names_room = room;
	}
	char *names = all->names + at;
	memcpy(names, s->command, s->command_length);
	memcpy(names + s->command_length, line, size);
	row->names_at = (int64_t)at;
	row->command_length = (int64_t)s->command_length;
	row->command_end = size ? 0 : UNKNOWN;
	while (size && !line[size - 1])
		size--;
	needed = s->command_length + size;
	row->plain = 1;
	for (size_t i = 0; i < needed; i++) {
		if (!names[i] && i >= s->command_length)
			names[i] = ' ';
		if (names[i] < ' ' || names[i] > '~' || names[i] == '"' || names[i] == '\\')
			row->plain = 0;
	}
	if (row->command_end != UNKNOWN)
		row->command_end = (int64_t)(at + needed);
	all->names_size += needed;
	return 1;
}

static enum status without_memory(struct processes *all, int folder)
{
	struct stat_fields s;
	ssize_t size = read_all(folder, "stat", all->stat);
	if (size < 0 || !parse_stat(all->stat, (size_t)size, &s))
		return LEFT;
	if (s.flags & PF_KTHREAD)
		return KERNEL_THREAD;
	return (s.state == 'Z' || s.state == 'X') && s.threads <= 1 ? ZOMBIE : LEFT;
}

/* What became of it; UNKNOWN where there is no memory for it. */
static int look_at(struct processes *all, int folder, int64_t page_size, struct process *row)
{
	int64_t amounts[READ_AMOUNTS];
	struct stat_fields s;
	struct stat owner;
	int status = READ;
	ssize_t size = read_all(folder, "smaps_rollup", all->other);
	if (size < 0 && errno == ESRCH)
		return without_memory(all, folder);
	if (size < 0 && (errno == EACCES || errno == EPERM))
		status = UNREADABLE;
	else if (size < 0 || !parse_rollup(all->other, all->other + size, amounts))
		return LEFT;
	if ((size = read_all(folder, "stat", all->stat)) < 0 || !parse_stat(all->stat, (size_t)size, &s))
		return LEFT;
	if ((size = read_all(folder, "cmdline", all->other)) < 0 || fstat(folder, &owner))
		return LEFT;
	if (s.rss_pages > INT64_MAX / page_size)
		return LEFT;
	if (!keep_names(all, row, &s, all->other, (size_t)size))
		return UNKNOWN;
	row->ppid = s.ppid;
	row->uid = owner.st_uid;
	row->threads = s.threads;
	row->start_ticks = s.start_ticks;
	for (int i = 0; i < AMOUNTS; i++)
		row->amounts[i] = status == READ ? amounts[i] : UNKNOWN;
	row->amounts[VSS] = s.vss;
	if (status == UNREADABLE) {
		row->amounts[RSS] = s.rss_pages * page_size;
		return status;
	}
	int64_t clean = amounts[PRIVATE_CLEAN], dirty = amounts[PRIVATE_DIRTY];
	int64_t shared = amounts[SHARED_HUGETLB], private = amounts[PRIVATE_HUGETLB];
	if (clean != UNKNOWN && dirty != UNKNOWN)
		row->amounts[USS] = clean + dirty + (private == UNKNOWN ? 0 : private);
	if (shared != UNKNOWN && private != UNKNOWN)
		row->amounts[HUGETLB] = shared + private;
	return status;
}

/* A process id without a leading zero; 0 for another name. */
static int64_t pid_of(const char *name)
{
	int64_t pid;
	const char *end = name + strlen(name);
	return *name >= '1' && *name <= '9' && decimal(name, end, &pid) == end ? pid : 0;
}

void leakline_processes_free(struct processes *all)
{
	if (!all)
		return;
	free(all->rows);
	free(all->names);
	free(all);
}

/* Look at every process of a folder like /proc. Returns NULL with the reason. */
struct processes *leakline_processes_read(int proc, int64_t page_size, int *reason)
{
	struct processes *all = calloc(1, sizeof *all); /* large, so that it is mapped: pages that are not used cost nothing */
	int listed = openat(proc, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *folders = listed < 0 ? NULL : fdopendir(listed);
	struct dirent *entry;
	if (!all || !folders)
		goto failed;
	while (errno = 0, (entry = readdir(folders))) {
		int64_t pid = pid_of(entry->d_name);
		if (!pid)
			continue;
		if (all->n_rows == all->rows_room) {
			size_t room = all->rows_room ? all->rows_room * 2 : 512;
			struct process *larger = realloc(all->rows, room * sizeof *larger);
			if (!larger)
				goto failed;
			all->rows = larger;
			all->rows_room = room;
		}
		struct process *row = &all->rows[all->n_rows++];
		memset(row, 0, sizeof *row);
		row->pid = pid;
		row->status = LEFT;
		/* The descriptor belongs to this process: a later one of the same number answers ESRCH through it. */
		int folder = openat(proc, entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (folder < 0)
			continue;
		row->status = look_at(all, folder, page_size, row);
		close(folder);
		if (row->status == UNKNOWN)
			goto failed;
	}
	if (errno)
		goto failed;
	closedir(folders);
	return all;
failed:
	*reason = errno ? errno : ENOMEM;
	if (folders)
		closedir(folders);
	else if (listed >= 0)
		close(listed);
	leakline_processes_free(all);
	return NULL;
}

/* The processes, in the order in which the folder lists them. */
const struct process *leakline_processes_rows(const struct processes *all, size_t *bytes)
{
	*bytes = all->n_rows * sizeof *all->rows;
	return all->rows;
}

/* Their names, one behind the other. */
const char *leakline_processes_names(const struct processes *all, size_t *bytes)
{
	*bytes = all->names_size;
	return all->names;
}
