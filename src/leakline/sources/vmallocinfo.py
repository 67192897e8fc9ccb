"""/proc/vmallocinfo (mm/vmalloc.c): virtually contiguous memory of the kernel, by who asked for it."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from leakline.errors import NotPossible, ParseError, PermissionNeeded
from leakline.model.kernel import VmallocCaller
from leakline.model.names import readable
from leakline.sources.parsing import text

if TYPE_CHECKING:
    from leakline.sources.machine import Machine


def read_vmalloc(machine: Machine) -> tuple[VmallocCaller, ...]:
    """The callers of a machine.

    Raises:
        PermissionNeeded: only root may read them.
        NotPossible: there is no such file.
        ParseError: it has another form.

    """
    try:
        data = (machine.proc / "vmallocinfo").read_bytes()
    except PermissionError as error:
        raise PermissionNeeded("no permission to read vmallocinfo", hint="Run as root.") from error
    except OSError as error:
        raise NotPossible(f"cannot read vmallocinfo: {error.strerror}") from error
    return parse_vmallocinfo(data, machine.page_size)


def parse_vmallocinfo(data: bytes, page_size: int) -> tuple[VmallocCaller, ...]:
    """The callers, those with the most memory first.

    Mappings of devices (ioremap) and of others' pages (vmap) have no pages of their own: `bytes` of these is 0.

    Raises:
        ParseError: a line has another form.

    """
    areas: dict[tuple[bytes, bytes | None], list[int]] = defaultdict(lambda: [0, 0, 0])
    for line in data.split(b"\n"):
        if not line:
            continue
        fields = line.split()
        if len(fields) < 2 or not fields[0].startswith(b"0x") or not fields[1].isdigit():
            raise ParseError(f"vmallocinfo: {line[:80]!r}")
        size = int(fields[1])
        caller, module, pages = b"unpurged" if b"vm_map_ram" not in fields else b"vm_map_ram", None, 0
        # Words without a sign in them are flags; the caller is symbol+offset/size, or a bare address without CONFIG_KALLSYMS.
        for field in fields[2:]:
            if field.startswith(b"pages="):
                pages = int(field[6:]) if field[6:].isdigit() else 0
            elif field.startswith(b"[") and field.endswith(b"]"):
                module = field[1:-1]
            elif b"+0x" in field:
                caller = field.partition(b"+")[0]
        amounts = areas[caller, module]
        amounts[0] += 1
        amounts[1] += pages * page_size
        amounts[2] += size
    rows = [
        VmallocCaller(
            caller=readable(text(caller)),
            module=None if module is None else readable(text(module)),
            areas=count,
            bytes=held,
            reserved=reserved,
        )
        for (caller, module), (count, held, reserved) in areas.items()
    ]
    return tuple(sorted(rows, key=lambda row: (-row.bytes, row.caller)))
