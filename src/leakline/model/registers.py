"""Where a thread's registers stand in struct user_regs_struct of x86-64 (arch/x86/include/asm/user_64.h)."""

from __future__ import annotations

NAMES = (
    *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi", "orig_rax"),
    *("rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs"),
)
"""One for each of its words, in their order."""
PLACES = {name: place for place, name in enumerate(NAMES)}
