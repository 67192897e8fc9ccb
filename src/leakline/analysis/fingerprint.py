"""A name for a leak that stays the same from run to run: no addresses, no line numbers, no compiler's suffixes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from leakline.model.stack import Frame

_DEPTH = 8
# gcc's and clang's names for parts and clones of a function.
_SUFFIX = re.compile(r"(?:\.(?:part|cold|isra|constprop|lto_priv|llvm)(?:\.\d+)*)+$")


def fingerprint(kind: str, stack: Sequence[Frame], size: int | None, content: str | None) -> str:
    """Sixteen hexadecimal digits of what identifies a leak.

    Args:
        kind: what sort of finding.
        stack: its frames; where there are none that are named, the blocks' form stands in.
        size: of a block, if all have the same.
        content: the symbol that the blocks begin with.

    """
    named = [f"{f.module}!{_SUFFIX.sub('', f.function)}" if f.function else f"{f.module}+{f.address or 0:#x}" for f in stack]
    parts = [kind, *named[:_DEPTH]] if stack else [kind, str(size), content or ""]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:16]
