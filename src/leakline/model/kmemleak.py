"""What the kernel's own leak detector says (Documentation/dev-tools/kmemleak.rst)."""

from __future__ import annotations

from typing import Literal

import msgspec


class KernelCall(msgspec.Struct, frozen=True, kw_only=True):
    """One return address on a kernel stack, as `%pS` prints it: `cmd_write+0x10b/0x210 [leakdrv]`."""

    function: str | None
    """None where the kernel has no symbol for the address, as after the module was unloaded."""
    offset: int | None
    """Bytes from the function's start."""
    size: int | None
    """Of the function, in bytes."""
    module: str | None
    """None for the kernel itself."""
    address: int | None
    """None where the kernel prints none, as 6.12, or a hash in its place."""


class UnreferencedObject(msgspec.Struct, frozen=True, kw_only=True):
    """A block to which kmemleak found no pointer."""

    address: int
    type: Literal["virtual", "physical", "percpu"]
    """What the address is; older kernels do not tell, and mean virtual."""
    size: int
    """Bytes, as requested."""
    comm: str
    """The task that allocated it: `swapper/0`, `hardirq` and `softirq` too."""
    pid: int
    jiffies: int
    """When it was allocated."""
    age_seconds: float | None
    """When the file was read; None where the kernel does not print it, as 6.12."""
    backtrace: tuple[KernelCall, ...]
    """Innermost first, the allocator's own functions included; empty where the kernel kept none."""


class KmemleakText(msgspec.Struct, frozen=True, kw_only=True):
    """All that such a text holds."""

    objects: tuple[UnreferencedObject, ...]
    """In its order."""
    problems: tuple[str, ...]
    """Objects that could not be read, as where the text was cut short."""
