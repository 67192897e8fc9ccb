"""Functions' names, as compilers and demanglers write them."""

from __future__ import annotations

import re

# gcc's and clang's names for parts and clones of a function, and a symbol's version.
_SUFFIX = re.compile(r"(?:\.(?:part|cold|isra|constprop|lto_priv|llvm)(?:\.\d+)*)+$|@.*$| \[clone [^\]]*\]$")
_ABI_TAG = re.compile(r"\[abi:[^\]]*\]")
# Names in which brackets are no brackets.
_OPERATOR = re.compile(r"\boperator ?(\(\)|<=>|<<=|>>=|->\*|<<|>>|<=|>=|->|<|>)")
_OPERATOR_NAMES = {
    "()": "call", "<=>": "order", "<<=": "shl_eq", ">>=": "shr_eq", "->*": "member", "<<": "shl", ">>": "shr", "<=": "le",
    ">=": "ge", "->": "arrow", "<": "lt", ">": "gt",
}  # fmt: skip


def without_suffix(function: str) -> str:
    """The name without what a compiler or linker has added: `work.part.0` is `work`, `fopen@@GLIBC_2.2.5` is `fopen`."""
    return _SUFFIX.sub("", function)


def plain_name(function: str) -> str:
    """A function's qualified name: `void std::vector<int>::push_back(int&&)` is `std::vector::push_back`."""
    name = _ABI_TAG.sub("", without_suffix(function)).replace("(anonymous namespace)", "{anonymous}")
    name = _OPERATOR.sub(lambda match: f"operator_{_OPERATOR_NAMES[match[1]]}", name)
    depth, kept = 0, []
    for letter in name:
        if letter in "<(":
            depth += 1
        elif letter in ">)":
            depth = max(0, depth - 1)
        elif depth == 0:
            kept.append(letter)
    words = "".join(kept).removesuffix(" const").split()
    # What stands before is the type of what a template returns; `operator new` and conversions are names of several words.
    first = next((at for at, word in enumerate(words) if word.rpartition("::")[2] == "operator"), len(words) - 1)
    return " ".join(words[max(first, 0) :]) or function
