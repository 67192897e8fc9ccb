/*
 * The functions that are put in front of the program's allocator.
 *
 * They are written in assembly because the stack above them is unwound from the registers that they were entered with: compiled C would
 * have moved some of them by the time the block is there. With a shadow nothing is done for free: who allocated an address last is all that
 * is asked.
 */
#include "follow.h"

#include <errno.h>
#include <unistd.h>

extern void *__libc_malloc(size_t);
extern void __libc_free(void *);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void *__libc_valloc(size_t);
extern void *__libc_pvalloc(size_t);

/* As glibc's malloc/malloc.c does it, which has no second name for these three. */
static int libc_posix_memalign(void **block, size_t alignment, size_t size)
{
	if (alignment % sizeof(void *) || !alignment || (alignment & (alignment - 1)))
		return EINVAL;
	void *p = leakline_real.memalign(alignment, size);
	if (!p)
		return ENOMEM;
	*block = p;
	return 0;
}

static void *libc_reallocarray(void *block, size_t count, size_t size)
{
	size_t bytes;
	if (__builtin_mul_overflow(count, size, &bytes)) {
		errno = ENOMEM;
		return NULL;
	}
	return leakline_real.realloc(block, bytes);
}

const struct allocator libc_allocator = {
	__libc_malloc, __libc_calloc,  __libc_realloc,	    __libc_memalign,   __libc_memalign,
	__libc_valloc, __libc_pvalloc, libc_posix_memalign, libc_reallocarray,
};

/* The first allocation of all finds out whose allocator it is before it calls it. */
static void *first_malloc(size_t size)
{
	start_recording();
	return leakline_real.malloc(size);
}

static void *first_calloc(size_t count, size_t size)
{
	start_recording();
	return leakline_real.calloc(count, size);
}

static void *first_realloc(void *block, size_t size)
{
	start_recording();
	return leakline_real.realloc(block, size);
}

static void *first_memalign(size_t alignment, size_t size)
{
	start_recording();
	return leakline_real.memalign(alignment, size);
}

static void *first_aligned_alloc(size_t alignment, size_t size)
{
	start_recording();
	return leakline_real.aligned_alloc(alignment, size);
}

static void *first_valloc(size_t size)
{
	start_recording();
	return leakline_real.valloc(size);
}

static void *first_pvalloc(size_t size)
{
	start_recording();
	return leakline_real.pvalloc(size);
}

static int first_posix_memalign(void **block, size_t alignment, size_t size)
{
	start_recording();
	return leakline_real.posix_memalign(block, alignment, size);
}

static void *first_reallocarray(void *block, size_t count, size_t size)
{
	start_recording();
	return leakline_real.reallocarray(block, count, size);
}

static void first_free(void *block)
{
	start_recording();
	leakline_real_free(block);
}

void (*leakline_real_free)(void *) = first_free;

static size_t first_usable_size(void *block)
{
	start_recording();
	return leakline_real_usable_size(block);
}

size_t (*leakline_real_usable_size)(void *) = first_usable_size;

EXPORT size_t malloc_usable_size(void *block)
{
	if (!leakline_agent_state.usable_sizes)
		leakline_agent_state.usable_sizes = 1;
	return leakline_real_usable_size(block);
}

struct allocator leakline_real = {
	first_malloc, first_calloc,  first_realloc,	   first_memalign,     first_aligned_alloc,
	first_valloc, first_pvalloc, first_posix_memalign, first_reallocarray,
};

/* How the stack of an allocation is found if it is known; of leakline_record_known and _guessed the second while any thread follows. */
int (*leakline_record_quickly)(const uint64_t *sp, uint64_t rbp, uint64_t rbx, uint64_t r12) = leakline_record_known;

_Static_assert(offsetof(struct allocator, reallocarray) == 64, "the assembly below counts on it");
_Static_assert(offsetof(struct registers, r15) == 40, "the assembly below pushes them in this order");

/*
 * On the stack of each: 0 the block, 8 the size, 16 where posix_memalign puts the block, 24 the return address. `record` leaves the block
 * in rax, and preserves what a call does.
 */
__asm__(".text\n"
	".macro begin name\n"
	".globl \\name\n"
	".type \\name, @function\n"
	".p2align 4\n"
	"\\name:\n"
	".cfi_startproc\n"
	"endbr64\n"
	"subq $24, %rsp\n"
	".cfi_adjust_cfa_offset 24\n"
	".endm\n"

	".macro record\n"
	"movq %rax, (%rsp)\n"
	"testq %rax, %rax\n"
	"je 2f\n"
	"leaq 24(%rsp), %rdi\n"
	"movq %rbp, %rsi\n"
	"movq %rbx, %rdx\n"
	"movq %r12, %rcx\n"
	"call *leakline_record_quickly(%rip)\n"
	"testl %eax, %eax\n"
	"je 3f\n"
	"1: movq (%rsp), %rax\n"
	"2:\n"
	".endm\n"

	".macro finish name\n"
	"addq $24, %rsp\n"
	".cfi_adjust_cfa_offset -24\n"
	"ret\n"
	".cfi_adjust_cfa_offset 24\n"
	"3: movq (%rsp), %rdi\n"
	"movq 8(%rsp), %rsi\n"
	"leaq 24(%rsp), %rcx\n"
	"pushq %r15\n"
	"pushq %r14\n"
	"pushq %r13\n"
	"pushq %r12\n"
	"pushq %rbp\n"
	"pushq %rbx\n"
	".cfi_adjust_cfa_offset 48\n"
	"movq %rsp, %rdx\n"
	"call leakline_record\n"
	"addq $48, %rsp\n"
	".cfi_adjust_cfa_offset -48\n"
	"jmp 1b\n"
	".cfi_endproc\n"
	".size \\name, . - \\name\n"
	".endm\n"

	".macro allocate name, real, size\n"
	"begin \\name\n"
	"movq \\size, 8(%rsp)\n"
	"call *leakline_real + \\real(%rip)\n"
	"record\n"
	"finish \\name\n"
	".endm\n"

	"allocate malloc, 0, %rdi\n"
	"allocate realloc, 16, %rsi\n"
	"allocate memalign, 24, %rsi\n"
	"allocate aligned_alloc, 32, %rsi\n"
	"allocate valloc, 40, %rdi\n"
	"allocate pvalloc, 48, %rdi\n"

	".globl free\n"
	".type free, @function\n"
	".p2align 4\n"
	"free:\n"
	".cfi_startproc\n"
	"endbr64\n"
	"jmp *leakline_real_free(%rip)\n" /* glibc's own, but for a table of live blocks */
	".cfi_endproc\n"
	".size free, . - free\n"

	"begin calloc\n"
	"movq %rdi, %rax\n"
	"imulq %rsi, %rax\n" /* where it overflows, there will be no block */
	"movq %rax, 8(%rsp)\n"
	"call *leakline_real + 8(%rip)\n"
	"record\n"
	"finish calloc\n"

	"begin reallocarray\n"
	"movq %rsi, %rax\n"
	"imulq %rdx, %rax\n"
	"movq %rax, 8(%rsp)\n"
	"call *leakline_real + 64(%rip)\n"
	"record\n"
	"finish reallocarray\n"

	"begin posix_memalign\n"
	"movq %rdx, 8(%rsp)\n"
	"movq %rdi, 16(%rsp)\n"
	"call *leakline_real + 56(%rip)\n"
	"testl %eax, %eax\n"
	"jne 4f\n"
	"movq 16(%rsp), %rax\n"
	"movq (%rax), %rax\n"
	"record\n"
	"xorl %eax, %eax\n"
	"4:\n"
	"finish posix_memalign\n");
