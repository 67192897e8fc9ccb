"""Which frame of a stack is the answer: the first that is neither an allocator's nor a library's that every program has."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from leakline.model.function_names import plain_name
from leakline.model.stack import Frame

_SYSTEM_MODULES = re.compile(
    r"(?:libc|libstdc\+\+|libgcc_s|libm|libdl|libpthread|librt|libc\+\+|libc\+\+abi|libjemalloc|libtcmalloc[a-z_]*|"
    r"libmimalloc|libasan|liblsan|libleakline-[a-z]+|vgpreload_[a-z0-9_-]+|ld-linux[a-z0-9-]*|ld|libc-2)[-.\d]*\.so\b.*"
)
# Of glibc and the sanitizers, for frames whose module is not told: those that allocate for their caller.
_SYSTEM_FUNCTIONS = re.compile(
    r"__GI_.*|__asan_.*|__lsan_.*|(?:__)?(?:str|wcs)n?dup|(?:__)?v?asprintf(?:_chk)?|(?:_IO_)?get(?:line|delim)|"
    r"(?:_IO_)?f(?:d|re)?open(?:64)?|_IO_file_doallocate|(?:__)?opendir|(?:__)?fdopendir|(?:__)?scandir(?:64)?|(?:__)?realpath|"
    r"(?:__)?getcwd|setlocale|(?:__)?regcomp|getaddrinfo|(?:_?_dl_|dl)open.*|_dl_allocate_tls|allocate_dtv|allocate_stack|"
    r"pthread_create(?:@.*)?|__libc_.*|_start|start_thread|_?_?clone3?"
)
_SYSTEM_NAMESPACES = ("std::", "__gnu_cxx::", "__gnu_debug::")
_SYSTEM_FOLDERS = ("/usr/include/", "/usr/lib/gcc/", "/usr/lib/llvm", "/usr/local/include/c++/")
# Runtimes' own allocators, before malloc or in its place: CPython's (Objects/obmalloc.c) and Rust's (library/alloc, library/std).
_ALLOCATORS = re.compile(
    r"_?Py(?:Mem|Object)_\w*(?:Malloc|Calloc|Realloc)(?:\.\w+)*|_PyMem_\w+|pymalloc_\w+|new_arena|"
    r"__rust_(?:alloc|alloc_zeroed|realloc)|__rdl_(?:alloc|alloc_zeroed|realloc)|alloc::alloc::\w+"
)


def is_system_frame(frame: Frame) -> bool:
    """Whether the frame lies in an allocator, libc, libstdc++, or a file under the compiler's or the system's include folders."""
    if frame.module is not None and _SYSTEM_MODULES.fullmatch(frame.module):
        return True
    if frame.function is not None and frame.function.startswith(("__interceptor_", "___interceptor_")):
        return True  # clang links them into the program
    if frame.function is not None and frame.module is None and _SYSTEM_FUNCTIONS.fullmatch(frame.function):
        return True
    # valgrind's text has files without their folders: `vector.tcc`.
    bare = frame.file is None or "/" not in frame.file
    if bare and frame.function is not None and plain_name(frame.function).startswith(_SYSTEM_NAMESPACES):
        return True
    return frame.file is not None and os.path.normpath(frame.file).startswith(_SYSTEM_FOLDERS)


def answering_frame(stack: Sequence[Frame]) -> int | None:
    """Index of the frame to show as the location; None if all are the system's."""
    for index, frame in enumerate(stack):
        if not is_system_frame(frame) and (frame.module or frame.file) and not _ALLOCATORS.fullmatch(_name(stack, index) or ""):
            return index
    return None


def _name(stack: Sequence[Frame], index: int) -> str | None:
    """The function of a frame; parts of functions have no name where they are inlined: then that which they are inlined into."""
    for frame in stack[index:]:
        if frame.function is not None or not frame.inlined:
            return frame.function
    return None
