"""/proc/kallsyms: the names of the kernel's addresses."""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING

from leakline.errors import NotPossible, PermissionNeeded
from leakline.model.names import readable
from leakline.model.stack import Frame
from leakline.sources.parsing import text

if TYPE_CHECKING:
    from collections.abc import Iterable

_LARGEST_FUNCTION = 1 << 20


class KernelSymbols:
    """Functions by address."""

    def __init__(self, functions: Iterable[tuple[int, bytes, bytes | None]]) -> None:
        known = sorted(functions, key=lambda function: function[0])
        self._starts = [start for start, _, _ in known]
        self._names = [(name, module) for _, name, module in known]

    def __len__(self) -> int:
        return len(self._starts)

    def frame(self, address: int) -> Frame:
        """The function that an address lies in.

        Args:
            address: of an instruction.

        """
        at = bisect.bisect_right(self._starts, address) - 1
        if at < 0 or address - self._starts[at] > _LARGEST_FUNCTION:
            return Frame(function=None, file=None, line=None, module=None, address=address)
        name, module = self._names[at]
        return Frame(
            function=readable(text(name)),
            file=None,
            line=None,
            module="vmlinux" if module is None else readable(text(module)),
            address=None,  # of a kernel that runs now, at another place after the next boot
            offset=address - self._starts[at],
        )


def parse_kallsyms(data: bytes) -> KernelSymbols:
    """The functions; lines of another form are left out.

    Raises:
        PermissionNeeded: every address is 0, as the kernel shows it to those who may not know (kernel.kptr_restrict).
        NotPossible: there is no function in it.

    """
    found: dict[int, tuple[int, bytes, bytes | None]] = {}
    hidden = False
    for line in data.split(b"\n"):
        fields = line.split()
        if len(fields) < 3 or fields[1] not in (b"t", b"T", b"w", b"W"):
            continue
        try:
            address = int(fields[0], 16)
        except ValueError:
            continue
        if not address:
            hidden = True
        elif address < 1 << 64 and (address not in found or fields[1] == b"T"):
            module = fields[3][1:-1] if len(fields) > 3 and fields[3].startswith(b"[") else None
            found[address] = address, fields[2], module
    if not found:
        if hidden:
            raise PermissionNeeded("the kernel hides its addresses", hint="Run as root; kernel.kptr_restrict must not be 2.")
        raise NotPossible("/proc/kallsyms names no function", hint="The kernel needs CONFIG_KALLSYMS.")
    return KernelSymbols(found.values())
