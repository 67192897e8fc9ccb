/*
 * Walks a stack, and notes all that the result depends on: every word of memory that was read, in the order of reading, and every
 * register that was used while it still had the value it came with. While these are the same, the stack is the same: each word says
 * where the next one is. Addresses count relative to the stack pointer, or to a saved rbp, so that a stack is known again at another
 * depth, below a frame of another size, or in another thread.
 */
#include "unwind.h"

#include <string.h>

static void add_word(struct trace *t, enum step_kind kind, uint64_t sp, uint64_t place, uint64_t word)
{
	uint64_t found = kind == COMPARE || kind == DEPTH ? word : word - sp;
	if (t->n_words == MOST_WORDS || place & 7 || (kind != COMPARE && found == IS_NEAR)) {
		t->is_lost = 1;
		return;
	}
	t->last = place;
	if ((kind == SAVED_RBP || kind == RBP_ITSELF) && is_near(word, place)) {
		found = IS_NEAR;
		t->last = word;
	}
	t->kinds[t->n_words] = (uint8_t)kind;
	t->places[t->n_words] = place;
	t->words[t->n_words++] = found;
}

/* Of a register that addresses come from. */
static void add_register(struct trace *t, enum step_kind kind, uint64_t sp, uint64_t value)
{
	if (!(t->once & 1u << kind))
		add_word(t, kind, sp, t->last, value);
	t->once |= (uint16_t)(1u << kind);
}

static void add_frame(struct trace *t, uint64_t ip)
{
	t->frames[t->n_frames++] = ip;
	t->hash = (t->hash ^ ip) * 0x9e3779b97f4a7c15ull;
	t->hash ^= t->hash >> 29;
}

static void begin(struct trace *t, uint64_t sp)
{
	t->last = sp;
	t->n_frames = t->n_words = 0;
	t->flags = t->cut = t->once = 0;
	t->is_full = t->is_lost = 0;
	t->hash = 0x6c6561;
}

static inline uint64_t get_rule(uint64_t ip, uint64_t generation)
{
	uint64_t tag = rule_tag(ip, generation);
	const struct rule *set = tables.rules + rule_set(ip) * RULE_WAYS;
	for (int way = 0; way < RULE_WAYS; way++) {
		if (__atomic_load_n(&set[way].tag, __ATOMIC_ACQUIRE) != tag)
			continue;
		uint64_t body = __atomic_load_n(&set[way].body, __ATOMIC_ACQUIRE);
		if (__builtin_expect(__atomic_load_n(&set[way].tag, __ATOMIC_RELAXED) == tag, 1))
			return body;
	}
	return derive_rule(ip, tag);
}

/* By short rules, which need no register but rsp and rbp. Returns 0 where a frame has none. */
static int walk_shortly(struct trace *t, const struct registers *registers, uint64_t sp)
{
	uint64_t generation = module_generation;
	uint64_t cfa = sp + 8, ip = *(const uint64_t *)sp, rbp = registers->rbp, rbp_at = 0;
	int rbp_came = 1;
	begin(t, sp);
	add_word(t, COMPARE, sp, sp, ip);
	for (;;) {
		if (!ip || ip >> 47)
			break;
		add_frame(t, ip);
		if (t->n_frames == MOST_FRAMES) {
			t->cut = 1;
			return 1;
		}
		uint64_t rule = get_rule(ip, generation), next = cfa;
		switch (kind_of(rule)) {
		case RULE_RSP:
			break;
		case RULE_RBP:
			if (rbp_at) {
				rbp = *(const uint64_t *)rbp_at;
				add_word(t, SAVED_RBP, sp, rbp_at, rbp);
			} else if (rbp_came) {
				add_word(t, RBP_ITSELF, sp, t->last, rbp);
			}
			rbp_at = 0;
			rbp_came = 0;
			next = rbp;
			break;
		case RULE_OUTERMOST:
			t->flags = AGENT_OUTERMOST;
			return 1;
		case RULE_FULL:
			return 0;
		default:
			t->cut = 1;
			return 1;
		}
		next += (uint64_t)cfa_offset_of(rule);
		if (next <= cfa || next & 7 || (next - cfa > LONGEST_JUMP && kind_of(rule) == RULE_RBP && !may_read(next - 16, 16))) {
			t->cut = 1;
			return 1;
		}
		cfa = next;
		if (rbp_offset_of(rule)) {
			rbp_at = cfa + (uint64_t)rbp_offset_of(rule);
			rbp_came = 0;
		}
		ip = *(const uint64_t *)(cfa - 8);
		add_word(t, COMPARE, sp, cfa - 8, ip);
	}
	if (!ip)
		t->flags = AGENT_OUTERMOST;
	else
		t->cut = 1;
	return 1;
}

/* Where a register's value is. */
enum place_kind { NOWHERE, AS_IT_CAME, IN_MEMORY, COMPUTED };

struct value {
	uint64_t bits;
	int moves; /* with the stack pointer */
};

struct place {
	enum place_kind kind;
	struct value value; /* or its address in memory */
};

struct context {
	struct trace *trace;
	uint64_t sp, ip;
	struct place registers[N_REGISTERS];
	int failed;
};

static struct value load(struct context *c, uint64_t address, int moves)
{
	uint64_t word = 0;
	if (address - c->sp > LONGEST_JUMP * 8ull && !may_read(address, 8)) {
		c->failed = 1;
		return (struct value){0, 0};
	}
	memcpy(&word, (const void *)address, 8);
	add_word(c->trace, moves ? WORD_DISTANCE : COMPARE, c->sp, address, word);
	return (struct value){word, moves};
}

static void note_depth(struct context *c)
{
	add_register(c->trace, DEPTH, c->sp, c->sp);
}

static struct value use(struct context *c, uint64_t number)
{
	static const uint8_t kinds[N_REGISTERS] = {[RBX] = RBX_DISTANCE, [RBP] = RBP_DISTANCE, [R12] = R12_DISTANCE};
	if (number >= N_REGISTERS) {
		c->failed = 1;
		return (struct value){0, 0};
	}
	struct place *place = &c->registers[number];
	switch (place->kind) {
	case AS_IT_CAME:
		if (kinds[number])
			add_register(c->trace, kinds[number], c->sp, place->value.bits);
		else
			c->trace->is_lost = 1;
		return place->value;
	case IN_MEMORY:
		return load(c, place->value.bits, number != RETURN_ADDRESS);
	case COMPUTED:
		return place->value;
	default:
		c->failed = 1;
		return (struct value){0, 0};
	}
}

#define EXPRESSION_DEPTH 32

struct expression {
	struct context *context;
	struct value stack[EXPRESSION_DEPTH];
	int depth;
};

static void push(struct expression *e, uint64_t bits, int moves)
{
	if (e->depth == EXPRESSION_DEPTH) {
		e->context->failed = 1;
		return;
	}
	e->stack[e->depth++] = (struct value){bits, moves};
}

static struct value pop(struct expression *e)
{
	if (!e->depth) {
		e->context->failed = 1;
		return (struct value){0, 0};
	}
	return e->stack[--e->depth];
}

static uint64_t read_constant(const uint8_t **at, int size, int is_signed)
{
	uint64_t bits = 0;
	memcpy(&bits, *at, (size_t)size);
	*at += size;
	int unused = 64 - 8 * size;
	return is_signed ? (uint64_t)((int64_t)(bits << unused) >> unused) : bits;
}

static uint64_t calculate(uint8_t operation, uint64_t a, uint64_t b, int *failed)
{
	switch (operation) {
	case 0x1a: /* DW_OP_and */
		return a & b;
	case 0x1b: /* DW_OP_div */
		*failed |= !b;
		return b ? (uint64_t)((int64_t)a / (int64_t)b) : 0;
	case 0x1c: /* DW_OP_minus */
		return a - b;
	case 0x1d: /* DW_OP_mod */
		*failed |= !b;
		return b ? a % b : 0;
	case 0x1e: /* DW_OP_mul */
		return a * b;
	case 0x21: /* DW_OP_or */
		return a | b;
	case 0x22: /* DW_OP_plus */
		return a + b;
	case 0x24: /* DW_OP_shl */
		return b < 64 ? a << b : 0;
	case 0x25: /* DW_OP_shr */
		return b < 64 ? a >> b : 0;
	case 0x26: /* DW_OP_shra */
		return (uint64_t)((int64_t)a >> (b < 64 ? b : 63));
	case 0x27: /* DW_OP_xor */
		return a ^ b;
	case 0x29: /* DW_OP_eq, ge, gt, le, lt, ne */
		return a == b;
	case 0x2a:
		return (int64_t)a >= (int64_t)b;
	case 0x2b:
		return (int64_t)a > (int64_t)b;
	case 0x2c:
		return (int64_t)a <= (int64_t)b;
	case 0x2d:
		return (int64_t)a < (int64_t)b;
	case 0x2e:
		return a != b;
	default:
		*failed = 1;
		return 0;
	}
}

/* Sums and differences move as their operands do; for all else the result holds at this very stack pointer only. */
static void combine(struct expression *e, uint8_t operation)
{
	struct value b = pop(e), a = pop(e);
	int moves = a.moves | b.moves;
	if (operation == 0x1c && a.moves && b.moves)
		moves = 0;
	else if ((a.moves && b.moves) || (operation != 0x22 && operation != 0x1c && moves) || (operation == 0x1c && !a.moves && b.moves))
		note_depth(e->context);
	push(e, calculate(operation, a.bits, b.bits, &e->context->failed), moves);
}

/* Everything else that a program's call frame information has been seen to use, and the rest of DWARF 2 that makes sense there. */
static void operate(struct expression *e, uint8_t operation, const uint8_t **at)
{
	struct value a, b, c;
	uint64_t number;
	switch (operation) {
	case 0x03: /* DW_OP_addr */
	case 0x0e: /* DW_OP_const8u */
	case 0x0f: /* DW_OP_const8s */
		push(e, read_constant(at, 8, 0), 0);
		break;
	case 0x06: /* DW_OP_deref */
		a = pop(e);
		if (!e->context->failed) {
			b = load(e->context, a.bits, 1);
			push(e, b.bits, 1);
		}
		break;
	case 0x08: /* DW_OP_const1u to const4s */
	case 0x09:
		push(e, read_constant(at, 1, operation & 1), 0);
		break;
	case 0x0a:
	case 0x0b:
		push(e, read_constant(at, 2, operation & 1), 0);
		break;
	case 0x0c:
	case 0x0d:
		push(e, read_constant(at, 4, operation & 1), 0);
		break;
	case 0x10: /* DW_OP_constu */
		push(e, read_uleb(at), 0);
		break;
	case 0x11: /* DW_OP_consts */
		push(e, (uint64_t)read_sleb(at), 0);
		break;
	case 0x12: /* DW_OP_dup */
		a = pop(e);
		push(e, a.bits, a.moves);
		push(e, a.bits, a.moves);
		break;
	case 0x13: /* DW_OP_drop */
		pop(e);
		break;
	case 0x14: /* DW_OP_over: the one below the top; DW_OP_pick: any */
	case 0x15:
		number = operation == 0x14 ? 1 : *(*at)++;
		if (number >= (uint64_t)e->depth) {
			e->context->failed = 1;
			break;
		}
		a = e->stack[(uint64_t)e->depth - 1 - number];
		push(e, a.bits, a.moves);
		break;
	case 0x16: /* DW_OP_swap */
		a = pop(e);
		b = pop(e);
		push(e, a.bits, a.moves);
		push(e, b.bits, b.moves);
		break;
	case 0x17: /* DW_OP_rot */
		a = pop(e);
		b = pop(e);
		c = pop(e);
		push(e, a.bits, a.moves);
		push(e, c.bits, c.moves);
		push(e, b.bits, b.moves);
		break;
	case 0x19: /* DW_OP_abs, neg, not */
	case 0x1f:
	case 0x20:
		a = pop(e);
		if (a.moves)
			note_depth(e->context);
		push(e, operation == 0x20 ? ~a.bits : operation == 0x1f || (int64_t)a.bits < 0 ? -a.bits : a.bits, a.moves);
		break;
	case 0x23: /* DW_OP_plus_uconst */
		a = pop(e);
		push(e, a.bits + read_uleb(at), a.moves);
		break;
	case 0x92: /* DW_OP_bregx */
		number = read_uleb(at);
		a = use(e->context, number);
		push(e, a.bits + (uint64_t)read_sleb(at), a.moves);
		break;
	case 0x96: /* DW_OP_nop */
		break;
	default:
		e->context->failed = 1;
	}
}

static struct value evaluate(struct context *c, const uint8_t *at, const uint64_t *cfa)
{
	struct expression e = {.context = c, .depth = 0};
	uint64_t size = read_uleb(&at);
	const uint8_t *start = at, *end = at + size;
	if (cfa)
		push(&e, *cfa, 1);
	for (int steps = 0; at < end && !c->failed; steps++) {
		uint8_t operation = *at++;
		if (steps > 1000) {
			c->failed = 1;
		} else if (operation >= 0x30 && operation < 0x50) { /* DW_OP_lit0 to lit31 */
			push(&e, operation - 0x30u, 0);
		} else if (operation >= 0x70 && operation < 0x90) { /* DW_OP_breg0 to breg31 */
			struct value base = operation == 0x70 + RETURN_ADDRESS ? (struct value){c->ip, 0} : use(c, operation - 0x70u);
			push(&e, base.bits + (uint64_t)read_sleb(&at), base.moves);
		} else if (operation == 0x28 || operation == 0x2f) { /* DW_OP_bra, skip */
			int64_t distance = (int64_t)read_constant(&at, 2, 1);
			struct value taken = operation == 0x28 ? pop(&e) : (struct value){1, 0};
			if (taken.moves)
				note_depth(c);
			if (taken.bits)
				at += distance;
			c->failed |= at < start;
		} else if (operation >= 0x1a && operation <= 0x2e && operation != 0x1f && operation != 0x20 && operation != 0x23) {
			combine(&e, operation);
		} else {
			operate(&e, operation, &at);
		}
	}
	return pop(&e);
}

static struct place recover(struct context *c, const struct row *row, uint64_t number, uint64_t cfa, const struct place *old)
{
	const struct recovery *r = &row->registers[number];
	switch (r->how) {
	case UNDEFINED:
		return (struct place){NOWHERE, {0, 0}};
	case AT_OFFSET:
		return (struct place){IN_MEMORY, {cfa + (uint64_t)r->value, 1}};
	case IS_OFFSET:
		return (struct place){COMPUTED, {cfa + (uint64_t)r->value, 1}};
	case AT_EXPRESSION:
		return (struct place){IN_MEMORY, evaluate(c, r->expression, &cfa)};
	case IS_EXPRESSION:
		return (struct place){COMPUTED, evaluate(c, r->expression, &cfa)};
	case IN_REGISTER:
		return r->value >= 0 && r->value < N_REGISTERS ? old[r->value] : (struct place){NOWHERE, {0, 0}};
	default:
		if (number == RSP)
			return (struct place){COMPUTED, {cfa, 1}};
		return number == RETURN_ADDRESS ? (struct place){NOWHERE, {0, 0}} : old[number];
	}
}

/* One frame up. Returns 0 at the outermost frame, and where it fails. */
static int step(struct context *c, const struct row *row)
{
	struct place old[N_REGISTERS];
	struct value cfa;
	memcpy(old, c->registers, sizeof old);
	if (row->cfa_expression) {
		cfa = evaluate(c, row->cfa_expression, NULL);
	} else {
		cfa = use(c, row->cfa_register);
		cfa.bits += (uint64_t)row->cfa_offset;
	}
	if (!cfa.moves)
		note_depth(c); /* an address that does not come from the stack's */
	/* Stacks grow down; only what a signal interrupted may have been on another one. */
	if (c->failed || (!row->is_signal_frame && (cfa.bits & 7 || cfa.bits <= old[RSP].value.bits)))
		return 0;
	struct place next[N_REGISTERS];
	for (uint64_t number = 0; number < N_REGISTERS; number++)
		next[number] = recover(c, row, number, cfa.bits, old);
	memcpy(c->registers, next, sizeof next);
	if (c->failed)
		return 0;
	if (c->registers[RSP].kind != COMPUTED)
		c->registers[RSP] = (struct place){COMPUTED, use(c, RSP)};
	c->ip = use(c, RETURN_ADDRESS).bits;
	return !c->failed;
}

static void enter(struct context *c, struct trace *t, const struct registers *r, uint64_t sp)
{
	const uint64_t came[N_REGISTERS] = {
		[RBX] = r->rbx, [RBP] = r->rbp, [R12] = r->r12, [R13] = r->r13, [R14] = r->r14, [R15] = r->r15,
	};
	static const uint8_t preserved[] = {RBX, RBP, R12, R13, R14, R15};
	memset(c, 0, sizeof *c);
	c->trace = t;
	c->sp = sp;
	for (size_t i = 0; i < sizeof preserved; i++)
		c->registers[preserved[i]] = (struct place){AS_IT_CAME, {came[preserved[i]], 1}};
	c->registers[RSP] = (struct place){COMPUTED, {sp + 8, 1}};
	c->ip = load(c, sp, 0).bits;
}

/* By whole rows, with all registers. */
void walk_fully(struct trace *t, const struct registers *registers, const uint64_t *sp)
{
	struct context c;
	struct row row;
	int interrupted = 0;
	begin(t, (uint64_t)sp);
	t->is_full = 1;
	enter(&c, t, registers, (uint64_t)sp);
	while (c.ip && !(c.ip >> 47)) {
		add_frame(t, c.ip);
		if (t->n_frames == MOST_FRAMES || !find_full_rule(c.ip, interrupted, &row)) {
			t->cut = 1;
			return;
		}
		if (row.registers[RETURN_ADDRESS].how == UNDEFINED) {
			t->flags = AGENT_OUTERMOST;
			return;
		}
		if (!step(&c, &row)) {
			t->cut = 1;
			return;
		}
		interrupted = row.is_signal_frame;
	}
	if (!c.ip)
		t->flags = AGENT_OUTERMOST;
	else
		t->cut = 1;
}

static int is_in_one(const struct agent_range *functions, size_t n, uint64_t ip)
{
	for (size_t i = 0; i < n; i++)
		if (is_in(&functions[i], ip - 1))
			return 1;
	return 0;
}

/* What a register has that calls preserve; 0 where it cannot be known. */
static uint64_t preserved_in(struct context *c, uint64_t number)
{
	uint64_t bits = use(c, number).bits;
	if (c->failed)
		bits = 0;
	c->failed = 0;
	return bits;
}

/*
 * From inside one of some functions, the innermost, to its caller: its stack pointer, and the registers as it will find them. Both stay
 * as they are where none of the functions is met.
 */
void leave_functions(const struct agent_range *functions, size_t n, struct registers *registers, uint64_t *sp)
{
	struct trace unused;
	struct context c;
	struct row row;
	begin(&unused, *sp);
	enter(&c, &unused, registers, *sp);
	for (int depth = 0, is_left = 0; !is_left; depth++) {
		is_left = is_in_one(functions, n, c.ip);
		if (depth == MOST_FRAMES || !find_full_rule(c.ip, 0, &row) || !step(&c, &row))
			return;
	}
	*sp = preserved_in(&c, RSP);
	registers->rbx = preserved_in(&c, RBX);
	registers->rbp = preserved_in(&c, RBP);
	registers->r12 = preserved_in(&c, R12);
	registers->r13 = preserved_in(&c, R13);
	registers->r14 = preserved_in(&c, R14);
	registers->r15 = preserved_in(&c, R15);
}

void walk_stack(struct trace *trace, const struct registers *registers, const uint64_t *sp)
{
	if (!walk_shortly(trace, registers, (uint64_t)sp))
		walk_fully(trace, registers, sp);
}
