/*
 * Sums over the mappings of each name, from the text of /proc/PID/smaps (fs/proc/task_mmu.c).
 *
 * This only takes what the kernel has written since Linux 3.8. Whatever else a file holds it is refused as a whole, and nothing of it
 * is counted: then leakline/sources/maps.py reads it, which knows the other forms and says what is wrong.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Version of what the Python side (leakline/native/smaps.py) relies on. */
#define LEAKLINE_SMAPS_ABI 2

enum { ADDED, REFUSED, NO_MEMORY }; /* what leakline_smaps_add() returns */

enum amount { RSS, PSS, USS, SWAP, SWAP_PSS, AMOUNTS };

struct name_sums {
	char *name; /* as it stands in the file */
	uint64_t length;
	uint64_t files; /* that have mappings of this name */
	uint64_t size;
	uint64_t bytes[AMOUNTS];
	uint64_t last_file;
};

struct mapping {
	const char *name;
	size_t length;
	uint64_t size;
	uint64_t bytes[AMOUNTS];
};

struct sums {
	struct name_sums *names;
	size_t n_names, names_room;
	uint32_t *slots; /* 1 + index of a name, 0 for none; a power of two of them, at most half of them taken */
	size_t n_slots;
	struct mapping *mappings; /* of the file at hand */
	size_t n_mappings, mappings_room;
	uint64_t files;
	uint64_t total; /* of all that was counted: as it fits, so does each sum */
};

#define FIELD(key, amount, required) {key, sizeof key - 1, amount, required}
/* Required by our Python parser too. USS is made of three. */
static const struct field {
	const char *key;
	size_t length;
	int amount; /* AMOUNTS: not summed */
	int required;
} fields[] = {
	FIELD("Rss", RSS, 1),
	FIELD("Pss", PSS, 1),
	FIELD("Shared_Clean", AMOUNTS, 1),
	FIELD("Shared_Dirty", AMOUNTS, 1),
	FIELD("Private_Clean", USS, 1),
	FIELD("Private_Dirty", USS, 1),
	FIELD("Anonymous", AMOUNTS, 1),
	FIELD("Private_Hugetlb", USS, 0),
	FIELD("Swap", SWAP, 1),
	FIELD("SwapPss", SWAP_PSS, 0),
};
#define FIELDS (sizeof fields / sizeof *fields)

static int is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static int hex_digit(char c)
{
	return is_digit(c) ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* A number of 1 to 16 hexadecimal digits, and the character behind it. Returns what follows, or NULL. */
static const char *hexadecimal(const char *at, const char *end, char behind, uint64_t *value)
{
	const char *first = at;
	*value = 0;
	while (at < end && hex_digit(*at) >= 0)
		*value = *value << 4 | (uint64_t)hex_digit(*at++);
	return at == first || at - first > 16 || at == end || *at != behind ? NULL : at + 1;
}

/* `start-end perms offset major:minor inode   name`: a line without its newline. */
static int parse_head(const char *at, const char *end, struct mapping *m)
{
	uint64_t first, last, ignored;
	if (!(at = hexadecimal(at, end, '-', &first)) || !(at = hexadecimal(at, end, ' ', &last)) || last <= first)
		return 0;
	if (end - at < 5 || (at[0] != 'r' && at[0] != '-') || (at[1] != 'w' && at[1] != '-') || (at[2] != 'x' && at[2] != '-'))
		return 0;
	if ((at[3] != 'p' && at[3] != 's') || at[4] != ' ')
		return 0;
	at += 5;
	if (!(at = hexadecimal(at, end, ' ', &ignored)) || !(at = hexadecimal(at, end, ':', &ignored)) ||
	    !(at = hexadecimal(at, end, ' ', &ignored)))
		return 0;
	if (at == end || !is_digit(*at))
		return 0;
	while (at < end && is_digit(*at))
		at++;
	if (at < end && *at != ' ')
		return 0;
	while (at < end && *at == ' ')
		at++;
	*m = (struct mapping){.name = at, .length = (size_t)(end - at), .size = last - first};
	return 1;
}

/* `Key:   123 kB`, or without the unit: a line without its newline. */
static int parse_field(const char *at, const char *end, struct mapping *m, unsigned *met)
{
	const char *key = at;
	if (at == end || *at < 'A' || *at > 'Z')
		return 0;
	while (at < end && ((*at >= 'a' && *at <= 'z') || (*at >= 'A' && *at <= 'Z') || *at == '_'))
		at++;
	size_t length = (size_t)(at - key);
	if (length < 2 || end - at < 2 || at[0] != ':' || at[1] != ' ')
		return 0;
	at++;
	while (at < end && *at == ' ')
		at++;
	const char *number = at;
	uint64_t value = 0;
	while (at < end && is_digit(*at) && at - number < 16)
		value = value * 10 + (uint64_t)(*at++ - '0');
	if (at == number || at - number == 16)
		return 0;
	int kilobytes = end - at == 3 && !memcmp(at, " kB", 3);
	if (!kilobytes && at != end)
		return 0;
	for (unsigned i = 0; i < FIELDS; i++) {
		if (fields[i].length != length || memcmp(fields[i].key, key, length))
			continue;
		if (!kilobytes || *met & 1u << i)
			return 0;
		*met |= 1u << i;
		if (fields[i].amount < AMOUNTS)
			m->bytes[fields[i].amount] += value << 10;
	}
	return 1;
}

/* From a head to the line of VmFlags. Returns what follows, or NULL. */
static const char *parse_mapping(const char *at, const char *end, struct mapping *m)
{
	unsigned met = 0;
	for (int line = 0; at < end; line++) {
		const char *newline = memchr(at, '\n', (size_t)(end - at));
		if (!newline)
			return NULL;
		if (newline - at >= 8 && !memcmp(at, "VmFlags:", 8)) {
			for (unsigned i = 0; i < FIELDS; i++)
				if (fields[i].required && !(met & 1u << i))
					return NULL;
			return line ? newline + 1 : NULL;
		}
		if (line ? !parse_field(at, newline, m, &met) : !parse_head(at, newline, m))
			return NULL;
		at = newline + 1;
	}
	return NULL;
}

static int grow(void **array, size_t *room, size_t element)
{
	size_t wanted = *room ? *room * 2 : 256;
	void *larger = realloc(*array, wanted * element);
	if (!larger)
		return 0;
	*array = larger;
	*room = wanted;
	return 1;
}

static uint64_t hash_of(const char *name, size_t length)
{
	uint64_t hash = 14695981039346656037ull; /* FNV-1a */
	for (size_t i = 0; i < length; i++)
		hash = (hash ^ (uint8_t)name[i]) * 1099511628211ull;
	return hash;
}

static uint32_t *slot_of(const struct sums *s, const char *name, size_t length)
{
	size_t slot = hash_of(name, length) & (s->n_slots - 1);
	for (;; slot = (slot + 1) & (s->n_slots - 1)) {
		uint32_t *found = &s->slots[slot];
		if (!*found || (s->names[*found - 1].length == length && !memcmp(s->names[*found - 1].name, name, length)))
			return found;
	}
}

static int grow_slots(struct sums *s)
{
	size_t n = s->n_slots ? s->n_slots * 2 : 1024;
	uint32_t *slots = calloc(n, sizeof *slots);
	if (!slots)
		return 0;
	free(s->slots);
	s->slots = slots;
	s->n_slots = n;
	for (size_t i = 0; i < s->n_names; i++)
		*slot_of(s, s->names[i].name, s->names[i].length) = (uint32_t)i + 1;
	return 1;
}

static struct name_sums *sums_of(struct sums *s, const char *name, size_t length)
{
	if (s->n_names * 2 >= s->n_slots && !grow_slots(s))
		return NULL;
	uint32_t *slot = slot_of(s, name, length);
	if (*slot)
		return &s->names[*slot - 1];
	if (s->n_names == s->names_room && !grow((void **)&s->names, &s->names_room, sizeof *s->names))
		return NULL;
	char *copy = malloc(length + 1);
	if (!copy || s->n_names >= UINT32_MAX - 1) {
		free(copy);
		return NULL;
	}
	memcpy(copy, name, length);
	copy[length] = 0;
	s->names[s->n_names] = (struct name_sums){.name = copy, .length = length};
	*slot = (uint32_t)++s->n_names;
	return &s->names[s->n_names - 1];
}

uint32_t leakline_smaps_abi(void)
{
	return LEAKLINE_SMAPS_ABI;
}

struct sums *leakline_smaps_new(void)
{
	return calloc(1, sizeof(struct sums));
}

void leakline_smaps_free(struct sums *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < s->n_names; i++)
		free(s->names[i].name);
	free(s->names);
	free(s->slots);
	free(s->mappings);
	free(s);
}

/* Count the mappings of one file: all of them, or none. */
int leakline_smaps_add(struct sums *s, const char *data, size_t size)
{
	const char *at = data, *end = data + size;
	uint64_t total = s->total;
	s->n_mappings = 0;
	while (at < end) {
		if (s->n_mappings == s->mappings_room && !grow((void **)&s->mappings, &s->mappings_room, sizeof *s->mappings))
			return NO_MEMORY;
		struct mapping *m = &s->mappings[s->n_mappings++];
		if (!(at = parse_mapping(at, end, m)))
			return REFUSED;
		/* It is no memory of the process: in maps, but not in VmSize. */
		if (m->length == 10 && !memcmp(m->name, "[vsyscall]", 10)) {
			m->size = 0;
			memset(m->bytes, 0, sizeof m->bytes);
		}
		int too_much = __builtin_add_overflow(total, m->size, &total);
		for (int i = 0; i < AMOUNTS; i++)
			too_much |= __builtin_add_overflow(total, m->bytes[i], &total);
		if (too_much)
			return REFUSED;
	}
	s->total = total;
	s->files++;
	for (size_t i = 0; i < s->n_mappings; i++) {
		const struct mapping *m = &s->mappings[i];
		struct name_sums *n = sums_of(s, m->name, m->length);
		if (!n)
			return NO_MEMORY;
		n->files += n->last_file != s->files;
		n->last_file = s->files;
		n->size += m->size;
		for (int k = 0; k < AMOUNTS; k++)
			n->bytes[k] += m->bytes[k];
	}
	return ADDED;
}

/* The names in the order in which they were met; valid until more is added. */
const struct name_sums *leakline_smaps_names(const struct sums *s, size_t *count)
{
	*count = s->n_names;
	return s->names;
}
