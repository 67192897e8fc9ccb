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
uint64_t module_generation;

static uint32_t n_modules;
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
	*m = (struct module){UINT64_MAX, 0, 0, 0xcbf29ce484222325ull, 1, 0};
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

static int list_module(struct dl_phdr_info *info, size_t size, void *data)
{
	struct module found;
	(void)size;
	(void)data;
	describe(info, &found);
	if (!found.end)
		return 0;
	for (uint32_t i = 0; i < n_modules; i++) {
		struct module *m = &tables.modules[i];
		if (m->start == found.start && m->end == found.end && m->identity == found.identity) {
			m->seen = 1;
			return 0;
		}
	}
	if (n_modules < MOST_MODULES) {
		tables.modules[n_modules] = found;
		__atomic_store_n(&n_modules, n_modules + 1, __ATOMIC_RELEASE);
	}
	return 0;
}

#define GONE_AT_ONCE 64

/* Forget what was learned in modules that were not seen; returns whether there may be more of them. */
static int drop_unseen(void)
{
	struct agent_range gone[GONE_AT_ONCE];
	size_t n_gone = 0;
	for (uint32_t i = 0; i < n_modules && n_gone < GONE_AT_ONCE;) {
		struct module *m = &tables.modules[i];
		if (m->seen) {
			i++;
			continue;
		}
		gone[n_gone++] = (struct agent_range){m->start, m->end};
		*m = tables.modules[n_modules - 1];
		__atomic_store_n(&n_modules, n_modules - 1, __ATOMIC_RELEASE);
	}
	if (!n_gone)
		return 0;
	uint64_t generation = __atomic_add_fetch(&module_generation, 1, __ATOMIC_RELEASE);
	if (!(generation & 0xffff)) { /* tags hold no more of it */
		memset(tables.rules, 0, RULES_BYTES);
		for (uint32_t i = 0; i < FULL_RULES; i++)
			tables.full_rules[i].tag = 0;
	}
	drop_stacks(gone, n_gone);
	drop_sites(gone, n_gone);
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
		for (uint32_t i = 0; i < n_modules; i++)
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
	uint32_t n = __atomic_load_n(&n_modules, __ATOMIC_ACQUIRE);
	for (uint32_t i = 0; i < n; i++)
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
	for (uint32_t i = 0; i < n_modules; i++)
		if (inside - tables.modules[i].start < tables.modules[i].end - tables.modules[i].start)
			loader = (struct agent_range){tables.modules[i].start, tables.modules[i].end};
}

int is_in_loader(uint64_t ip)
{
	return ip - loader.start < loader.end - loader.start;
}

void reset_modules_lock(void)
{
	refreshing = 0;
}
