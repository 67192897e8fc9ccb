/*
 * Which module an address is in, and whether modules have vanished.
 *
 * What was learned about the code of a vanished module must not serve the next one that is loaded in its place. glibc unloads modules
 * without dlclose(3) too (gconv, NSS), and tells nobody; but to load one it allocates, and that is seen. So after an allocation by the
 * loader the modules are looked at before the next allocation is recorded.
 */
#define _GNU_SOURCE
#include "agent.h"
#include "../unwind/unwind.h"

#include <link.h>
#include <string.h>

/* As in glibc's <dlfcn.h>, since 2.35. */
struct found_object {
	unsigned long long flags;
	void *start, *end;
	void *link_map;
	void *frame_header;
	unsigned long long reserved[7];
};

int (*dl_find_object)(void *, void *);
uint32_t modules_may_have_changed;
uint32_t code_outside;
uint64_t module_generation;

static unsigned long long loads_seen, unloads_seen;
static uint32_t refreshing;
static uint32_t doubts; /* how often modules may have changed */
static struct agent_range loader;

struct news {
	unsigned long long loads, unloads;
};

/* The first module is enough: the counts are the same in all. */
static int read_counts(struct dl_phdr_info *module, size_t size, void *data)
{
	struct news *news = data;
	if (size >= offsetof(struct dl_phdr_info, dlpi_subs) + sizeof module->dlpi_subs)
		*news = (struct news){module->dlpi_adds, module->dlpi_subs};
	return 1;
}

static uint64_t mix(uint64_t hash, const void *bytes, size_t size)
{
	for (const uint8_t *byte = bytes; size--; byte++)
		hash = (hash ^ *byte) * 0x100000001b3ull;
	return hash;
}

/* The same code in the same place is the same module, whatever happened in between: name, segments, build-id, unwind information. */
static void describe(const struct dl_phdr_info *info, struct module *m)
{
	*m = (struct module){.start = UINT64_MAX, .identity = 0xcbf29ce484222325ull, .seen = 1};
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
		uint64_t start = info->dlpi_addr + segment->p_vaddr;
		if (segment->p_type == PT_LOAD && start < m->start)
			m->start = start;
		if (segment->p_type == PT_LOAD && start + segment->p_memsz > m->end)
			m->end = start + segment->p_memsz;
		if (segment->p_type == PT_GNU_EH_FRAME)
			m->frame_header = start;
		if (segment->p_type == PT_NOTE && segment->p_flags & PF_R)
			m->identity = mix(m->identity, (const void *)start, segment->p_memsz < 256 ? segment->p_memsz : 256);
		if (segment->p_type == PT_GNU_EH_FRAME)
			m->identity = mix(m->identity, (const void *)start, segment->p_memsz < 4096 ? segment->p_memsz : 4096);
	}
	m->identity = mix(m->identity, info->dlpi_phdr, info->dlpi_phnum * sizeof *info->dlpi_phdr);
	m->identity = mix(m->identity, info->dlpi_name, info->dlpi_name ? strlen(info->dlpi_name) : 0);
}

/* A copy of a path, each of which there is once; 0 where there is no room. */
static uint32_t keep_name(const char *name)
{
	uint64_t *used = &leakline_agent_state.names_size;
	size_t size = strlen(name) + 1;
	for (uint64_t at = 1; at < *used; at += strlen(tables.names + at) + 1)
		if (!strcmp(tables.names + at, name))
			return (uint32_t)at;
	if (size == 1 || *used + size > NAMES_BYTES)
		return 0;
	uint32_t at = (uint32_t)*used;
	memcpy(tables.names + at, name, size);
	__atomic_store_n(used, at + size, __ATOMIC_RELEASE);
	return at;
}

/* NT_GNU_BUILD_ID; a note is padded to four bytes (System V ABI, chapter 5). */
static void find_build_id(const uint8_t *notes, uint64_t size, struct module *m)
{
	ElfW(Nhdr) note;
	for (uint64_t at = 0; at + sizeof note <= size;) {
		memcpy(&note, notes + at, sizeof note);
		uint64_t name = at + sizeof note, description = name + ((note.n_namesz + 3ull) & ~3ull);
		if (description + note.n_descsz > size)
			return;
		if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 && !memcmp(notes + name, "GNU", 4) && note.n_descsz <= sizeof m->code.build_id) {
			m->code.build_id_size = note.n_descsz;
			memcpy(m->code.build_id, notes + description, note.n_descsz);
			return;
		}
		at = description + ((note.n_descsz + 3ull) & ~3ull);
	}
}

/* What names its code when it is no longer there. */
static void describe_code(const struct dl_phdr_info *info, struct module *m)
{
	m->code.name = keep_name(info->dlpi_name ? info->dlpi_name : "");
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
		uint64_t start = info->dlpi_addr + segment->p_vaddr;
		if (segment->p_type == PT_LOAD && segment->p_flags & PF_X && !m->code.end) {
			m->code.start = start;
			m->code.end = start + segment->p_memsz;
			m->code.offset = segment->p_offset;
		}
		if (segment->p_type == PT_NOTE && segment->p_flags & PF_R && !m->code.build_id_size)
			find_build_id((const uint8_t *)start, segment->p_memsz, m);
	}
}

/* Other code lies there now. */
static void forget_code(const struct agent_range *ranges, size_t n)
{
	uint64_t generation = __atomic_add_fetch(&module_generation, 1, __ATOMIC_RELEASE);
	if (!(generation & 0xffff)) { /* tags hold no more of it */
		memset(tables.rules, 0, RULES_BYTES);
		for (uint32_t i = 0; i < 1u << FULL_RULE_BITS; i++)
			tables.full_rules[i].tag = 0;
	}
	drop_stacks(ranges, n);
	drop_signatures(ranges, n);
}

static int list_module(struct dl_phdr_info *info, size_t size, void *data)
{
	struct module found;
	(void)size;
	(void)data;
	describe(info, &found);
	if (!found.end)
		return 0;
	for (uint64_t i = 0; i < leakline_agent_state.n_modules; i++) {
		struct module *m = &tables.modules[i];
		if (m->start == found.start && m->end == found.end && m->identity == found.identity) {
			m->seen = 1;
			return 0;
		}
	}
	if (leakline_agent_state.n_modules < MOST_MODULES) {
		describe_code(info, &found);
		tables.modules[leakline_agent_state.n_modules] = found;
		__atomic_store_n(&leakline_agent_state.n_modules, leakline_agent_state.n_modules + 1, __ATOMIC_RELEASE);
		if (code_outside)
			forget_code(&(struct agent_range){found.start, found.end}, 1);
	}
	return 0;
}

#define GONE_AT_ONCE 16

static void note_unloaded(const struct module *m, uint32_t n_sites)
{
	uint64_t n = leakline_agent_state.n_unloaded;
	if (n == MOST_UNLOADED)
		return;
	tables.unloaded[n] = m->code;
	tables.unloaded[n].n_sites = n_sites;
	__atomic_store_n(&leakline_agent_state.n_unloaded, n + 1, __ATOMIC_RELEASE);
}

/* Forget what was learned in modules that were not seen; returns whether there may be more of them. */
static int drop_unseen(void)
{
	struct agent_range ranges[GONE_AT_ONCE];
	struct module gone[GONE_AT_ONCE];
	uint8_t are_met[GONE_AT_ONCE] = {0};
	size_t n_gone = 0;
	for (uint64_t i = 0; i < leakline_agent_state.n_modules && n_gone < GONE_AT_ONCE;) {
		struct module *m = &tables.modules[i];
		if (m->seen) {
			i++;
			continue;
		}
		ranges[n_gone] = (struct agent_range){m->start, m->end};
		gone[n_gone++] = *m;
		*m = tables.modules[leakline_agent_state.n_modules - 1];
		__atomic_store_n(&leakline_agent_state.n_modules, leakline_agent_state.n_modules - 1, __ATOMIC_RELEASE);
	}
	if (!n_gone)
		return 0;
	forget_code(ranges, n_gone);
	uint32_t n_sites = drop_sites(ranges, n_gone, are_met);
	for (size_t k = 0; k < n_gone; k++)
		if (are_met[k])
			note_unloaded(&gone[k], n_sites);
	return n_gone == GONE_AT_ONCE;
}

/* Before the next allocation is recorded, look at the modules. */
void doubt_modules(void)
{
	__atomic_add_fetch(&doubts, 1, __ATOMIC_SEQ_CST);
	__atomic_store_n(&modules_may_have_changed, 1, __ATOMIC_SEQ_CST);
	show_stacks(0);
}

/*
 * Take note of loaded and unloaded modules. Never waits for another thread that does so: that one may be waiting for the loader's lock,
 * which this one may hold, in a callback of dl_iterate_phdr(3) that allocates.
 */
void refresh_modules(void)
{
	struct news news = {0, 0};
	if (__atomic_exchange_n(&refreshing, 1, __ATOMIC_ACQUIRE))
		return;
	uint32_t doubts_before = __atomic_load_n(&doubts, __ATOMIC_SEQ_CST);
	__atomic_store_n(&modules_may_have_changed, 0, __ATOMIC_SEQ_CST);
	dl_iterate_phdr(read_counts, &news);
	if (news.loads != loads_seen || news.unloads != unloads_seen) {
		for (uint64_t i = 0; i < leakline_agent_state.n_modules; i++)
			tables.modules[i].seen = 0;
		dl_iterate_phdr(list_module, NULL);
		while (drop_unseen())
			;
		loads_seen = news.loads;
		unloads_seen = news.unloads;
	}
	show_stacks(1);
	if (__atomic_load_n(&doubts, __ATOMIC_SEQ_CST) != doubts_before)
		doubt_modules();
	__atomic_store_n(&refreshing, 0, __ATOMIC_RELEASE);
}

static uint64_t look_up(uint64_t ip)
{
	uint64_t n = __atomic_load_n(&leakline_agent_state.n_modules, __ATOMIC_ACQUIRE);
	for (uint64_t i = 0; i < n; i++)
		if (ip - tables.modules[i].start < tables.modules[i].end - tables.modules[i].start)
			return tables.modules[i].frame_header;
	return 0;
}

/* The .eh_frame_hdr of the module that holds an address; 0 if none does. */
uint64_t find_frame_header(uint64_t ip)
{
	struct found_object found;
	if (dl_find_object && dl_find_object((void *)ip, &found) == 0)
		return (uint64_t)found.frame_header;
	uint64_t header = look_up(ip);
	if (header || dl_find_object)
		return header;
	refresh_modules();
	return look_up(ip);
}

/* The loader is the module that holds what its own symbol names; all of them have that one entry point. */
void find_loader(void)
{
	extern void *__tls_get_addr(void *);
	uint64_t inside = (uint64_t)&__tls_get_addr;
	for (uint64_t i = 0; i < leakline_agent_state.n_modules; i++)
		if (inside - tables.modules[i].start < tables.modules[i].end - tables.modules[i].start)
			loader = (struct agent_range){tables.modules[i].start, tables.modules[i].end};
}

int is_in_loader(uint64_t ip)
{
	return is_in(&loader, ip);
}

void reset_modules_lock(void)
{
	refreshing = 0;
}
