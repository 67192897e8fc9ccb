/* Parses .eh_frame_hdr and .eh_frame of a loaded module. */
#include "unwind.h"

#include <string.h>

#define MOST_REMEMBERED 16

enum { /* DW_EH_PE_* of pointers (LSB 10.5) */
	PE_ABSOLUTE = 0x00,
	PE_ULEB = 0x01,
	PE_UDATA2 = 0x02,
	PE_UDATA4 = 0x03,
	PE_UDATA8 = 0x04,
	PE_SLEB = 0x09,
	PE_SDATA2 = 0x0a,
	PE_SDATA4 = 0x0b,
	PE_SDATA8 = 0x0c,
	PE_FORMAT = 0x0f,
	PE_PCREL = 0x10,
	PE_DATAREL = 0x30,
	PE_APPLICATION = 0x70,
	PE_OMIT = 0xff,
};

struct entry { /* a CIE, and of an FDE that names it */
	const uint8_t *instructions, *instructions_end;
	const uint8_t *fde_instructions, *fde_end;
	uint64_t start, size;
	uint64_t code_factor;
	int64_t data_factor;
	uint64_t return_register;
	uint8_t pointer_encoding;
	int has_augmentation_size, is_signal_frame;
};

uint64_t read_uleb(const uint8_t **at)
{
	uint64_t value = 0;
	for (int shift = 0;; shift += 7) {
		uint8_t byte = *(*at)++;
		if (shift < 64)
			value |= (uint64_t)(byte & 127) << shift;
		if (!(byte & 128))
			return value;
	}
}

int64_t read_sleb(const uint8_t **at)
{
	uint64_t value = 0;
	int shift = 0;
	uint8_t byte;
	do {
		byte = *(*at)++;
		if (shift < 64)
			value |= (uint64_t)(byte & 127) << shift;
		shift += 7;
	} while (byte & 128);
	if (shift < 64 && byte & 64)
		value |= ~0ull << shift;
	return (int64_t)value;
}

static uint64_t read_pointer(const uint8_t **at, uint8_t encoding, uint64_t data)
{
	uint64_t place = (uint64_t)*at, value = 0;
	int32_t four;
	int16_t two;
	switch (encoding & PE_FORMAT) {
	case PE_ULEB:
		value = read_uleb(at);
		break;
	case PE_SLEB:
		value = (uint64_t)read_sleb(at);
		break;
	case PE_UDATA2:
	case PE_SDATA2:
		memcpy(&two, *at, 2);
		value = (encoding & PE_FORMAT) == PE_UDATA2 ? (uint16_t)two : (uint64_t)two;
		*at += 2;
		break;
	case PE_UDATA4:
	case PE_SDATA4:
		memcpy(&four, *at, 4);
		value = (encoding & PE_FORMAT) == PE_UDATA4 ? (uint32_t)four : (uint64_t)four;
		*at += 4;
		break;
	default:
		memcpy(&value, *at, 8);
		*at += 8;
	}
	if ((encoding & PE_APPLICATION) == PE_PCREL)
		value += place;
	else if ((encoding & PE_APPLICATION) == PE_DATAREL)
		value += data;
	return value;
}

static int read_cie(const uint8_t *at, struct entry *e)
{
	uint32_t length;
	memcpy(&length, at, 4);
	if (length == UINT32_MAX)
		return 0; /* 64-bit DWARF: nobody writes it in .eh_frame */
	e->instructions_end = at + 4 + length;
	at += 8;
	uint8_t version = *at++;
	const char *augmentation = (const char *)at;
	at += strlen(augmentation) + 1;
	e->code_factor = read_uleb(&at);
	e->data_factor = read_sleb(&at);
	e->return_register = version == 1 ? *at++ : read_uleb(&at);
	e->pointer_encoding = PE_ABSOLUTE;
	e->is_signal_frame = e->has_augmentation_size = 0;
	if (*augmentation == 'z') {
		e->has_augmentation_size = 1;
		uint64_t size = read_uleb(&at);
		const uint8_t *data = at;
		at += size;
		for (const char *letter = augmentation + 1; *letter; letter++) {
			if (*letter == 'R') {
				e->pointer_encoding = *data++;
			} else if (*letter == 'P') {
				uint8_t encoding = *data++;
				read_pointer(&data, encoding, 0);
			} else if (*letter == 'L') {
				data++;
			} else if (*letter == 'S') {
				e->is_signal_frame = 1;
			} else if (*letter != 'B') {
				break;
			}
		}
	} else if (*augmentation) {
		return 0;
	}
	e->instructions = at;
	return e->return_register == RETURN_ADDRESS;
}

/* Returns 0 where the entry is a CIE, or does not hold the pc. */
static int read_fde(const uint8_t *at, uint64_t pc, struct entry *e)
{
	uint32_t length, back;
	memcpy(&length, at, 4);
	memcpy(&back, at + 4, 4);
	if (length == UINT32_MAX || !back || !read_cie(at + 4 - back, e))
		return 0;
	e->fde_end = at + 4 + length;
	at += 8;
	e->start = read_pointer(&at, e->pointer_encoding, 0);
	e->size = read_pointer(&at, e->pointer_encoding & PE_FORMAT, 0);
	if (pc - e->start >= e->size)
		return 0;
	if (e->has_augmentation_size) {
		uint64_t size = read_uleb(&at);
		at += size;
	}
	e->fde_instructions = at;
	return 1;
}

/* Without a table: one entry after the other, up to the terminator. */
static int find_by_reading_all(const uint8_t *at, uint64_t pc, struct entry *e)
{
	for (;;) {
		uint32_t length;
		memcpy(&length, at, 4);
		if (!length || length == UINT32_MAX)
			return 0;
		if (read_fde(at, pc, e))
			return 1;
		at += 4 + length;
	}
}

static int find_entry(uint64_t header, uint64_t pc, struct entry *e)
{
	const uint8_t *at = (const uint8_t *)header;
	uint8_t frames_encoding = at[1], count_encoding = at[2], table_encoding = at[3];
	if (at[0] != 1 || frames_encoding == PE_OMIT)
		return 0;
	at += 4;
	const uint8_t *frames = (const uint8_t *)read_pointer(&at, frames_encoding, header);
	if (count_encoding == PE_OMIT || table_encoding != (PE_DATAREL | PE_SDATA4))
		return find_by_reading_all(frames, pc, e);
	uint64_t low = 0, high = read_pointer(&at, count_encoding, header);
	const int32_t *table = (const int32_t *)at;
	while (low < high) {
		uint64_t middle = (low + high) / 2;
		if (header + (uint64_t)(int64_t)table[2 * middle] <= pc)
			low = middle + 1;
		else
			high = middle;
	}
	return low && read_fde((const uint8_t *)header + table[2 * low - 1], pc, e);
}

static void set(struct row *row, uint64_t number, enum how how, int64_t value)
{
	if (number < N_REGISTERS)
		row->registers[number] = (struct recovery){(uint8_t)how, value, NULL};
}

static void set_expression(struct row *row, uint64_t number, enum how how, const uint8_t **at)
{
	if (number < N_REGISTERS)
		row->registers[number] = (struct recovery){(uint8_t)how, 0, *at};
	uint64_t size = read_uleb(at);
	*at += size;
}

static void restore(struct row *row, uint64_t number, const struct row *initial)
{
	if (number < N_REGISTERS)
		row->registers[number] = initial->registers[number];
}

struct machine { /* the call frame instructions being run */
	const struct entry *entry;
	const struct row *initial;
	struct row *row;
	uint64_t location;
	int depth;
	struct row remembered[MOST_REMEMBERED];
};

/* Instructions that have no operand in their first byte. Returns 0 for one that is not known. */
static int run_extended(struct machine *m, uint8_t operation, const uint8_t **at)
{
	struct row *row = m->row;
	int64_t factor = m->entry->data_factor;
	uint64_t number;
	switch (operation) {
	case 0x00: /* DW_CFA_nop */
		return 1;
	case 0x01: /* DW_CFA_set_loc */
		m->location = read_pointer(at, m->entry->pointer_encoding, 0);
		return 1;
	case 0x02: /* DW_CFA_advance_loc1, 2, 4 */
		m->location += *(*at)++ * m->entry->code_factor;
		return 1;
	case 0x03:
		m->location += read_pointer(at, PE_UDATA2, 0) * m->entry->code_factor;
		return 1;
	case 0x04:
		m->location += read_pointer(at, PE_UDATA4, 0) * m->entry->code_factor;
		return 1;
	case 0x05: /* DW_CFA_offset_extended */
		number = read_uleb(at);
		set(row, number, AT_OFFSET, (int64_t)read_uleb(at) * factor);
		return 1;
	case 0x06: /* DW_CFA_restore_extended */
		restore(row, read_uleb(at), m->initial);
		return 1;
	case 0x07: /* DW_CFA_undefined */
		set(row, read_uleb(at), UNDEFINED, 0);
		return 1;
	case 0x08: /* DW_CFA_same_value */
		set(row, read_uleb(at), SAME, 0);
		return 1;
	case 0x09: /* DW_CFA_register */
		number = read_uleb(at);
		set(row, number, IN_REGISTER, (int64_t)read_uleb(at));
		return 1;
	case 0x0a: /* DW_CFA_remember_state */
		if (m->depth == MOST_REMEMBERED)
			return 0;
		m->remembered[m->depth++] = *row;
		return 1;
	case 0x0b: /* DW_CFA_restore_state */
		if (!m->depth)
			return 0;
		*row = m->remembered[--m->depth];
		return 1;
	case 0x0c: /* DW_CFA_def_cfa */
		row->cfa_expression = NULL;
		row->cfa_register = (uint32_t)read_uleb(at);
		row->cfa_offset = (int64_t)read_uleb(at);
		return 1;
	case 0x0d: /* DW_CFA_def_cfa_register */
		row->cfa_expression = NULL;
		row->cfa_register = (uint32_t)read_uleb(at);
		return 1;
	case 0x0e: /* DW_CFA_def_cfa_offset */
		row->cfa_offset = (int64_t)read_uleb(at);
		return 1;
	case 0x0f: /* DW_CFA_def_cfa_expression */
		row->cfa_expression = *at;
		number = read_uleb(at);
		*at += number;
		return 1;
	case 0x10: /* DW_CFA_expression */
		number = read_uleb(at);
		set_expression(row, number, AT_EXPRESSION, at);
		return 1;
	case 0x11: /* DW_CFA_offset_extended_sf */
		number = read_uleb(at);
		set(row, number, AT_OFFSET, read_sleb(at) * factor);
		return 1;
	case 0x12: /* DW_CFA_def_cfa_sf */
		row->cfa_expression = NULL;
		row->cfa_register = (uint32_t)read_uleb(at);
		row->cfa_offset = read_sleb(at) * factor;
		return 1;
	case 0x13: /* DW_CFA_def_cfa_offset_sf */
		row->cfa_offset = read_sleb(at) * factor;
		return 1;
	case 0x14: /* DW_CFA_val_offset */
		number = read_uleb(at);
		set(row, number, IS_OFFSET, (int64_t)read_uleb(at) * factor);
		return 1;
	case 0x15: /* DW_CFA_val_offset_sf */
		number = read_uleb(at);
		set(row, number, IS_OFFSET, read_sleb(at) * factor);
		return 1;
	case 0x16: /* DW_CFA_val_expression */
		number = read_uleb(at);
		set_expression(row, number, IS_EXPRESSION, at);
		return 1;
	case 0x2e: /* DW_CFA_GNU_args_size: of interest to landing pads only */
		read_uleb(at);
		return 1;
	case 0x2f: /* DW_CFA_GNU_negative_offset_extended */
		number = read_uleb(at);
		set(row, number, AT_OFFSET, -(int64_t)read_uleb(at) * factor);
		return 1;
	default:
		return 0;
	}
}

static int run(struct machine *m, const uint8_t *at, const uint8_t *end, uint64_t pc)
{
	while (at < end) {
		uint8_t operation = *at++, operand = operation & 63;
		switch (operation >> 6) {
		case 1: /* DW_CFA_advance_loc */
			m->location += operand * m->entry->code_factor;
			break;
		case 2: /* DW_CFA_offset */
			set(m->row, operand, AT_OFFSET, (int64_t)read_uleb(&at) * m->entry->data_factor);
			break;
		case 3: /* DW_CFA_restore */
			restore(m->row, operand, m->initial);
			break;
		default:
			if (!run_extended(m, operation, &at))
				return 0;
		}
		if (m->location > pc)
			return 1;
	}
	return 1;
}

int find_row(uint64_t frame_header, uint64_t pc, struct row *row)
{
	struct entry entry;
	struct row initial;
	struct machine m;
	if (!find_entry(frame_header, pc, &entry))
		return 0;
	memset(row, 0, sizeof *row);
	row->is_signal_frame = entry.is_signal_frame;
	initial = *row;
	m.entry = &entry;
	m.initial = &initial;
	m.row = row;
	m.depth = 0;
	m.location = 0;
	if (!run(&m, entry.instructions, entry.instructions_end, UINT64_MAX))
		return 0;
	initial = *row;
	m.depth = 0;
	m.location = entry.start;
	return run(&m, entry.fde_instructions, entry.fde_end, pc);
}
