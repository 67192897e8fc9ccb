/* Finds who defines a symbol, in the order in which the loader looks, from the dynamic sections of the loaded modules (gABI, chapter 5). */
#define _GNU_SOURCE
#include "agent.h"

#include <link.h>
#include <string.h>

struct dynamic { /* of a module */
	const ElfW(Sym) *symbols;
	const char *names;
	const uint32_t *gnu_hash, *hash;
	const ElfW(Half) *versions;
};

struct search {
	struct definition *wanted;
	size_t n;
	int behind_us;
};

/* glibc relocates these addresses in place, except in modules that it may not write to. */
static const void *pointer(const struct dl_phdr_info *module, uint64_t value)
{
	return (const void *)(value < module->dlpi_addr ? value + module->dlpi_addr : value);
}

static int read_dynamic(const struct dl_phdr_info *module, struct dynamic *d)
{
	const ElfW(Dyn) *entry = NULL;
	memset(d, 0, sizeof *d);
	for (int i = 0; i < module->dlpi_phnum; i++)
		if (module->dlpi_phdr[i].p_type == PT_DYNAMIC)
			entry = (const ElfW(Dyn) *)(module->dlpi_addr + module->dlpi_phdr[i].p_vaddr);
	for (; entry && entry->d_tag != DT_NULL; entry++) {
		if (entry->d_tag == DT_SYMTAB)
			d->symbols = pointer(module, entry->d_un.d_ptr);
		else if (entry->d_tag == DT_STRTAB)
			d->names = pointer(module, entry->d_un.d_ptr);
		else if (entry->d_tag == DT_GNU_HASH)
			d->gnu_hash = pointer(module, entry->d_un.d_ptr);
		else if (entry->d_tag == DT_HASH)
			d->hash = pointer(module, entry->d_un.d_ptr);
		else if (entry->d_tag == DT_VERSYM)
			d->versions = pointer(module, entry->d_un.d_ptr);
	}
	return d->symbols && d->names;
}

/* Old versions of a symbol are hidden: bit 15 of its entry. */
static int is_it(const struct dynamic *d, uint32_t i, const char *name)
{
	const ElfW(Sym) *symbol = &d->symbols[i];
	int type = ELF64_ST_TYPE(symbol->st_info);
	return symbol->st_shndx != SHN_UNDEF && (type == STT_FUNC || type == STT_GNU_IFUNC) && !(d->versions && d->versions[i] & 0x8000) &&
	       !strcmp(d->names + symbol->st_name, name);
}

static uint32_t look_up(const struct dynamic *d, const char *name)
{
	if (d->gnu_hash) {
		uint32_t h = 5381, n_buckets = d->gnu_hash[0], first = d->gnu_hash[1];
		for (const char *c = name; *c; c++)
			h = h * 33 + (uint8_t)*c;
		const uint32_t *buckets = d->gnu_hash + 4 + 2 * d->gnu_hash[2], *chain = buckets + n_buckets;
		for (uint32_t i = n_buckets ? buckets[h % n_buckets] : 0; i >= first && i; i++) {
			if ((chain[i - first] | 1) == (h | 1) && is_it(d, i, name))
				return i;
			if (chain[i - first] & 1)
				break;
		}
	} else if (d->hash) {
		for (uint32_t i = 1; i < d->hash[1]; i++)
			if (is_it(d, i, name))
				return i;
	}
	return 0;
}

static int holds(const struct dl_phdr_info *module, uint64_t address)
{
	for (int i = 0; i < module->dlpi_phnum; i++) {
		const ElfW(Phdr) *segment = &module->dlpi_phdr[i];
		if (segment->p_type == PT_LOAD && address - module->dlpi_addr - segment->p_vaddr < segment->p_memsz)
			return 1;
	}
	return 0;
}

static int search_module(struct dl_phdr_info *module, size_t size, void *data)
{
	struct search *search = data;
	struct dynamic d;
	(void)size;
	if (holds(module, (uint64_t)&leakline_agent_state)) {
		search->behind_us = 1;
		return 0;
	}
	if (!read_dynamic(module, &d))
		return 0;
	for (struct definition *w = search->wanted; w < search->wanted + search->n; w++) {
		uint32_t i = w->address ? 0 : look_up(&d, w->name);
		if (!i)
			continue;
		if (!w->is_in_front)
			w->module = module->dlpi_name;
		if (!search->behind_us) {
			w->is_in_front = 1;
			continue;
		}
		w->address = (void *)(module->dlpi_addr + d.symbols[i].st_value);
		w->size = d.symbols[i].st_size;
		if (ELF64_ST_TYPE(d.symbols[i].st_info) == STT_GNU_IFUNC)
			w->address = ((void *(*)(void))w->address)();
	}
	return 0;
}

void find_definitions(struct definition *wanted, size_t n)
{
	struct search search = {.wanted = wanted, .n = n, .behind_us = 0};
	dl_iterate_phdr(search_module, &search);
}
