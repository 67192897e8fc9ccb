"""Which allocator serves a process: told by what it maps, never guessed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from leakline.errors import NotSupported

if TYPE_CHECKING:
    from collections.abc import Iterable

    from leakline.formats.elf import Elf
    from leakline.model.vma import Vma

_GLIBC = re.compile(r"/libc(?:\.so\.6|-2\.\d+\.so)(?: \(deleted\))?$")
_MUSL = re.compile(r"/(?:ld-musl-[^/]*\.so\.1|libc\.musl-[^/]*\.so\.1|libc\.so)(?: \(deleted\))?$")
# Allocators that replace malloc: by the library's name, or by a symbol of the executable that holds them.
_LIBRARIES = {
    "jemalloc": re.compile(r"/libjemalloc[^/]*\.so"),
    "tcmalloc": re.compile(r"/libtcmalloc[^/]*\.so"),
    "mimalloc": re.compile(r"/libmimalloc[^/]*\.so"),
    "AddressSanitizer": re.compile(r"/(?:libasan|libclang_rt\.asan)[^/]*\.so"),
    "LeakSanitizer": re.compile(r"/(?:liblsan|libclang_rt\.lsan)[^/]*\.so"),
    "scudo": re.compile(r"/libclang_rt\.scudo[^/]*\.so"),
    "Hoard": re.compile(r"/libhoard[^/]*\.so"),
    "valgrind": re.compile(r"/vgpreload_[^/]*\.so"),
}
_SYMBOLS = {
    "mallocx": "jemalloc",
    "je_malloc": "jemalloc",
    "mi_malloc": "mimalloc",
    "tc_malloc": "tcmalloc",
    "TCMallocInternalMalloc": "tcmalloc",
    "__asan_init": "AddressSanitizer",
    "__lsan_init": "LeakSanitizer",
}
_HINTS = {
    "jemalloc": "jemalloc has a leak profiler of its own: MALLOC_CONF=prof:true,prof_leak:true. "
    "Or start the program with glibc's malloc.",
    "tcmalloc": "tcmalloc has a heap profiler of its own: HEAPPROFILE=/tmp/heap. Or start the program with glibc's malloc.",
    "AddressSanitizer": "The program checks itself: end it and read its LeakSanitizer report.",
    "LeakSanitizer": "The program checks itself: end it and read its LeakSanitizer report.",
    "valgrind": "The program runs under valgrind already: ask that, by `vgdb leak_check full`.",
}
_DEFAULT_HINT = "Start the program on glibc's malloc if it can be built so; or under valgrind --leak-check=full."


def is_libc(vma: Vma) -> bool:
    """Whether a mapping is of a C library: glibc's or musl's."""
    return vma.path is not None and (_GLIBC.search(vma.path) or _MUSL.search(vma.path)) is not None


def foreign_allocator(vmas: Iterable[Vma], executable: Elf | None) -> str | None:
    """The name of an allocator in the process that is not libc's; None for libc's."""
    for vma in vmas:
        for name, pattern in _LIBRARIES.items():
            if vma.path and pattern.search(vma.path):
                return name
    if executable is None:
        return None
    symbols = executable.symbols()
    return next((name for symbol, name in _SYMBOLS.items() if symbols.named(symbol)), None)


def require_64_bits(executable: Elf) -> None:
    """Refuse what our parts cannot read.

    Raises:
        NotSupported: it is a 32-bit program.

    """
    if executable.bits != 64:
        raise NotSupported("not supported: a 32-bit program", hint="valgrind can check it: valgrind --leak-check=full PROGRAM.")


def require_glibc(vmas: list[Vma], executable: Elf | None) -> Vma:
    """The first mapping of the process's glibc.

    Raises:
        NotSupported: it is a 32-bit or static program, or another allocator serves it.

    """
    if executable is not None:
        require_64_bits(executable)
    foreign = foreign_allocator(vmas, executable)
    if foreign is not None:
        raise NotSupported(f"not supported: {foreign} serves this program's malloc", hint=_HINTS.get(foreign, _DEFAULT_HINT))
    for vma in vmas:
        if vma.path and _MUSL.search(vma.path):
            raise NotSupported("not supported: musl serves this program's malloc", hint=_DEFAULT_HINT)
    for vma in vmas:
        if vma.path and _GLIBC.search(vma.path):
            return vma
    if executable is None or not executable.has_interpreter:
        raise NotSupported(
            "not supported: a statically linked program",
            hint="Link it dynamically; or start it under valgrind --soname-synonyms=somalloc=NONE --leak-check=full.",
        )
    raise NotSupported("not supported: the program maps no libc that leakline knows", hint=_DEFAULT_HINT)
