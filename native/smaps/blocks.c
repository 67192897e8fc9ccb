/*
 * /proc/PID/smaps (fs/proc/task_mmu.c) cut into its mappings. Most say the same below their addresses: each such text is kept once,
 * and leakline/sources/maps.py, which knows what it means, reads it once.
 *
 * Each mapping is `start-end `, a text, and a line of VmFlags (Linux 3.8). What is of another form is refused as a whole.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PIECE 65536
#define LONGEST (1 << 20) /* of one mapping's text */

struct mapping {
	uint64_t start, end, text;
};

struct text {
	uint64_t at, length, flags_at; /* the words of VmFlags stand at its end */
};

struct blocks {
	struct mapping *mappings;
	size_t n_mappings, mappings_room;
	struct text *texts;
	uint64_t *hashes;
	size_t n_texts, texts_room;
	uint32_t *slots; /* 1 + index of a text, 0 for none; a power of two of them, at most half of them taken */
	size_t n_slots;
	char *bytes; /* of the texts */
	size_t n_bytes, bytes_room;
};

static const char flags_line[] = "\nVmFlags:";
#define FLAGS_LINE (sizeof flags_line - 1)

static int grow(void *array, size_t *room, size_t element, size_t needed)
{
	void **pointer = array;
	if (needed <= *room)
		return 1;
	size_t wanted = *room * 2 > needed ? *room * 2 : needed + 64;
	void *larger = realloc(*pointer, wanted * element);
	if (!larger)
		return 0;
	*pointer = larger;
	*room = wanted;
	return 1;
}

/* Eight bytes at a time: it only has to tell one process's mappings apart, and what is equal is compared. */
static uint64_t hash_of(const char *data, size_t length)
{
	uint64_t hash = length * 0x9e3779b97f4a7c15ull, word;
	for (; length >= sizeof word; data += sizeof word, length -= sizeof word) {
		memcpy(&word, data, sizeof word);
		hash = (hash ^ word) * 0xff51afd7ed558ccdull;
		hash ^= hash >> 32;
	}
	word = 0;
	memcpy(&word, data, length);
	hash = (hash ^ word) * 0xff51afd7ed558ccdull;
	return hash ^ hash >> 29;
}

static int grow_slots(struct blocks *b)
{
	size_t n = b->n_slots ? b->n_slots * 2 : 1024;
	uint32_t *slots = calloc(n, sizeof *slots);
	if (!slots)
		return 0;
	free(b->slots);
	b->slots = slots;
	b->n_slots = n;
	for (size_t i = 0; i < b->n_texts; i++) {
		size_t slot = b->hashes[i] & (n - 1);
		while (slots[slot])
			slot = (slot + 1) & (n - 1);
		slots[slot] = (uint32_t)i + 1;
	}
	return 1;
}

/* The index of a text, new or not; UINT64_MAX where there is no memory for it. */
static uint64_t index_of(struct blocks *b, const char *data, size_t length, size_t flags_at)
{
	if (b->n_texts * 2 >= b->n_slots && !grow_slots(b))
		return UINT64_MAX;
	uint64_t hash = hash_of(data, length);
	size_t slot = hash & (b->n_slots - 1);
	for (; b->slots[slot]; slot = (slot + 1) & (b->n_slots - 1)) {
		size_t i = b->slots[slot] - 1;
		if (b->hashes[i] == hash && b->texts[i].length == length && !memcmp(b->bytes + b->texts[i].at, data, length))
			return i;
	}
	size_t room = b->texts_room;
	if (b->n_texts >= UINT32_MAX - 1 || !grow(&b->texts, &b->texts_room, sizeof *b->texts, b->n_texts + 1) ||
	    !grow(&b->hashes, &room, sizeof *b->hashes, b->texts_room) ||
	    !grow(&b->bytes, &b->bytes_room, 1, b->n_bytes + length))
		return UINT64_MAX;
	memcpy(b->bytes + b->n_bytes, data, length);
	b->texts[b->n_texts] = (struct text){b->n_bytes, length, flags_at};
	b->hashes[b->n_texts] = hash;
	b->n_bytes += length;
	b->slots[slot] = (uint32_t)++b->n_texts;
	return b->n_texts - 1;
}

/* A number of 1 to 16 hexadecimal digits, and the character behind it. Returns what follows, or NULL. */
static const char *hexadecimal(const char *at, const char *end, char behind, uint64_t *value)
{
	const char *first = at;
	*value = 0;
	for (; at < end && at - first < 17; at++) {
		int digit = *at >= '0' && *at <= '9' ? *at - '0' : *at >= 'a' && *at <= 'f' ? *at - 'a' + 10 : -1;
		if (digit < 0)
			break;
		*value = *value << 4 | (uint64_t)digit;
	}
	return at == first || at - first > 16 || at == end || *at != behind ? NULL : at + 1;
}

/* The mappings that are whole. Returns the bytes taken, or -1 with errno: EINVAL for another form. */
static ssize_t take(struct blocks *b, const char *data, size_t size)
{
	const char *at = data, *end = data + size;
	for (;;) {
		const char *flags = memmem(at, (size_t)(end - at), flags_line, FLAGS_LINE);
		const char *newline = flags ? memchr(flags + FLAGS_LINE, '\n', (size_t)(end - flags) - FLAGS_LINE) : NULL;
		if (!newline)
			return at - data;
		struct mapping m;
		const char *text = hexadecimal(at, flags, '-', &m.start);
		if (!text || !(text = hexadecimal(text, flags, ' ', &m.end)) || m.end <= m.start) {
			errno = EINVAL;
			return -1;
		}
		m.text = index_of(b, text, (size_t)(newline - text), (size_t)(flags - text));
		if (m.text == UINT64_MAX || !grow(&b->mappings, &b->mappings_room, sizeof *b->mappings, b->n_mappings + 1)) {
			errno = ENOMEM;
			return -1;
		}
		b->mappings[b->n_mappings++] = m;
		at = newline + 1;
	}
}

static int read_whole(struct blocks *b, int file)
{
	size_t room = 0, have = 0;
	char *buffer = NULL;
	int taken = 0;
	for (;;) {
		if (have > LONGEST || !grow(&buffer, &room, 1, have + PIECE)) {
			errno = have > LONGEST ? EINVAL : ENOMEM;
			break;
		}
		ssize_t size = read(file, buffer + have, PIECE);
		if (size < 0)
			break;
		if (!size) {
			taken = !have;
			errno = EINVAL;
			break;
		}
		have += (size_t)size;
		/* The kernel gives a page at a time: nothing is looked at twice but the mapping that the pages cut. */
		ssize_t done = take(b, buffer, have);
		if (done < 0)
			break;
		have -= (size_t)done;
		memmove(buffer, buffer + done, have);
	}
	int error = errno;
	free(buffer);
	errno = error;
	return taken;
}

void leakline_blocks_free(struct blocks *b)
{
	if (!b)
		return;
	free(b->mappings);
	free(b->texts);
	free(b->hashes);
	free(b->slots);
	free(b->bytes);
	free(b);
}

/* Read a smaps file to its end. Returns NULL with the reason: EINVAL for another form, else what the kernel answered. */
struct blocks *leakline_blocks_read(int file, int *reason)
{
	struct blocks *b = calloc(1, sizeof *b);
	if (b && read_whole(b, file))
		return b;
	*reason = b ? errno : ENOMEM;
	leakline_blocks_free(b);
	return NULL;
}

/* Start, end and index of a text for each mapping. */
const struct mapping *leakline_blocks_mappings(const struct blocks *b, size_t *bytes)
{
	*bytes = b->n_mappings * sizeof *b->mappings;
	return b->mappings;
}

/* Where each text begins, its length, and where in it its line of VmFlags begins. */
const struct text *leakline_blocks_texts(const struct blocks *b, size_t *bytes)
{
	*bytes = b->n_texts * sizeof *b->texts;
	return b->texts;
}

const char *leakline_blocks_bytes(const struct blocks *b, size_t *bytes)
{
	*bytes = b->n_bytes;
	return b->bytes;
}
