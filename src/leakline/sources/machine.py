"""The machine whose files are read: this one, or one that was captured."""

from __future__ import annotations

import os
import pwd
from contextlib import suppress
from pathlib import Path

import msgspec

from leakline.model.names import readable

_LARGEST_CONFIG = 4 << 20


class Machine(msgspec.Struct, frozen=True):
    """Where a machine's files are, and what is needed to understand them."""

    proc: Path = Path("/proc")
    sys: Path = Path("/sys")
    boot: Path = Path("/boot")
    live: bool = True
    """False for a captured one: nothing can be asked of it but its files."""
    page_size: int = os.sysconf("SC_PAGE_SIZE")
    ticks_per_second: int = os.sysconf("SC_CLK_TCK")
    _users: dict[int, str] = msgspec.field(default_factory=dict)

    def user(self, uid: int) -> str:
        """The name of a user; the number where it has none."""
        if uid not in self._users:
            name = str(uid)
            if self.live:
                with suppress(KeyError):
                    name = readable(pwd.getpwuid(uid).pw_name)
            self._users[uid] = name
        return self._users[uid]

    def kernel_option(self, name: str) -> bool | None:
        """Whether the kernel was built with CONFIG_name; None where its configuration cannot be read."""
        import zlib

        for path in (self.proc / "config.gz", self.boot / f"config-{self._release()}"):
            try:
                data = path.read_bytes()
                text = zlib.decompressobj(wbits=31).decompress(data, _LARGEST_CONFIG) if path.suffix == ".gz" else data
            except (OSError, zlib.error):
                continue
            return f"\nCONFIG_{name}=y\n".encode() in b"\n" + text
        return None

    def _release(self) -> str:
        try:
            return (self.proc / "sys/kernel/osrelease").read_text(errors="replace").strip().replace("/", "")
        except OSError:
            return ""
