"""The machine whose files are read: this one, or one that was captured."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_LARGEST_CONFIG = 4 << 20
_PIECE = 1 << 13


class Machine:
    """Where a machine's files are, and what is needed to understand them.

    Args:
        proc: its /proc.
        sys: its /sys.
        boot: its /boot.
        live: False for a captured one: nothing can be asked of it but its files.
        page_size: in bytes.
        ticks_per_second: of its clock.
        users: the names of users that are known.

    """

    def __init__(
        self,
        proc: Path = Path("/proc"),
        sys: Path = Path("/sys"),
        boot: Path = Path("/boot"),
        live: bool = True,
        page_size: int = os.sysconf("SC_PAGE_SIZE"),
        ticks_per_second: int = os.sysconf("SC_CLK_TCK"),
        users: Mapping[int, str] | None = None,
    ) -> None:
        self.proc = proc
        self.sys = sys
        self.boot = boot
        self.live = live
        self.page_size = page_size
        self.ticks_per_second = ticks_per_second
        self._users = dict(users or {})

    def user(self, uid: int) -> str:
        """The name of a user; the number where it has none."""
        if uid not in self._users:
            name = str(uid)
            if self.live:
                import pwd

                from leakline.model.names import readable

                with suppress(KeyError):
                    name = readable(pwd.getpwuid(uid).pw_name)
            self._users[uid] = name
        return self._users[uid]

    def kernel_option(self, name: str) -> bool | None:
        """Whether the kernel was built with CONFIG_name; None where its configuration cannot be read."""
        import zlib

        yes, no = f"\nCONFIG_{name}=y\n".encode(), f"\n# CONFIG_{name} is not set\n".encode()
        for packed in (True, False):
            try:
                data = (self.proc / "config.gz" if packed else self.boot / f"config-{self._release()}").read_bytes()
                text = b"\n"
                for piece in _unpacked(data) if packed else [data]:
                    text = text[-len(no) :] + piece
                    if yes in text or no in text:
                        return yes in text
            except (OSError, zlib.error):
                continue
            return False
        return None

    def max_map_count(self) -> int | None:
        """vm.max_map_count; None where it cannot be read."""
        with suppress(OSError, ValueError):
            return int((self.proc / "sys/vm/max_map_count").read_bytes())
        return None

    def _release(self) -> str:
        try:
            return (self.proc / "sys/kernel/osrelease").read_text(errors="replace").strip().replace("/", "")
        except OSError:
            return ""


def _unpacked(data: bytes) -> Iterator[bytes]:
    """What was packed by gzip, piece by piece: what is sought mostly stands in the first half."""
    import zlib

    unpacking = zlib.decompressobj(wbits=31)
    for _ in range(_LARGEST_CONFIG // _PIECE):
        piece = unpacking.decompress(data, _PIECE)
        if not piece:
            return
        yield piece
        data = unpacking.unconsumed_tail
