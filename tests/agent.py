"""A parent for the agent, as small as can be: it starts programs, answers them when they end, and reads their tables."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import msgspec

from leakline.formats.elf import Elf, SymbolTable
from leakline.sources.procfs import ProcFs
from leakline.sources.remote_memory import RemoteMemory

STARTING, RECORDING, WAITING, OFF = range(4)
_HEAD = struct.Struct("<QIIQQQQQQQQQiiQ6Q64QQQ128sQQQQIIQQQQQQ")
_SITE = struct.Struct("<IHHII")


class State(msgspec.Struct, frozen=True, kw_only=True):
    """struct agent_state of native/agent/agent.h."""

    phase: int
    shadow: int
    sites: int
    n_sites: int
    frames: int
    n_frames: int
    allocations: int
    memo_hits: int
    memo_misses: int
    truncated: int
    waiting_tid: int
    exit_status: int
    waiting_sp: int
    registers: tuple[int, ...]
    own: tuple[tuple[int, int], ...]
    shadow_enabled: int
    why_off: str
    table: int
    slots: int
    other_allocator: bool


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """One stack."""

    frames: tuple[int, ...]
    reached_outermost: bool


class Process:
    """A process with the agent in it, while it waits or runs."""

    def __init__(self, pid: int, state_at: int) -> None:
        self.pid, self.state_at = pid, state_at
        self.memory = RemoteMemory(Path("/proc"), pid)
        self._tables: dict[str, tuple[int, SymbolTable]] = {}
        self._maps = ProcFs().maps(pid)

    def state(self) -> State:
        """Read it."""
        data = self.memory.read(self.state_at, _HEAD.size)
        magic, version, phase, *values = _HEAD.unpack(data)
        assert magic.to_bytes(8, "little") == b"leakline"
        assert version == 4
        return State(
            phase=phase,
            shadow=values[0],
            sites=values[1],
            n_sites=values[2],
            frames=values[3],
            n_frames=values[4],
            allocations=values[5],
            memo_hits=values[6],
            memo_misses=values[7],
            truncated=values[8],
            waiting_tid=values[9],
            exit_status=values[10],
            waiting_sp=values[11],
            registers=tuple(values[12:18]),
            own=tuple(zip(values[18:82:2], values[19:82:2], strict=True))[: values[82]],
            shadow_enabled=values[83],
            why_off=values[84].split(b"\0")[0].decode(),
            table=values[87],
            slots=values[88] * ((1 << values[89]) - 1),
            other_allocator=bool(values[90]),
        )

    def record(self, address: int) -> tuple[int, int]:
        """Site and size of a block."""
        if self.state().table:
            return self.live().get(address, (0, 0))
        data = self.memory.read(self.state().shadow + (address >> 4) * 4, 8)
        return struct.unpack("<II", data) if len(data) == 8 else (0, 0)

    def live(self) -> dict[int, tuple[int, int]]:
        """Site and size of every block in the table."""
        state = self.state()
        data = self.memory.read(state.table, state.slots * 16)
        assert len(data) == state.slots * 16
        return {address: (site, size) for address, site, size in struct.iter_unpack("<QII", data) if address}

    def site(self, number: int) -> Site:
        """Read one."""
        state = self.state()
        assert 0 < number < state.n_sites
        first, count, flags, _, _ = _SITE.unpack(self.memory.read(state.sites + number * _SITE.size, _SITE.size))
        frames = struct.unpack(f"<{count}Q", self.memory.read(state.frames + 8 * first, 8 * count))
        return Site(frames=frames, reached_outermost=bool(flags & 1))

    def name(self, address: int) -> str:
        """The function that holds an address, or the file's name, or nothing."""
        vma = next((v for v in self._maps if v.start <= address < v.end), None)
        if vma is None or vma.path is None or not vma.path.startswith("/"):
            return "?"
        if vma.path not in self._tables:
            with Elf.open(vma.path, vma.path) as elf:
                bias = elf.load_bias(vma.start, vma.offset)
                assert bias is not None
                self._tables[vma.path] = bias, elf.symbols()
        bias, table = self._tables[vma.path]
        symbol = table.at(address - bias)
        return symbol.name if symbol else Path(vma.path).name

    def words(self, symbol: str, count: int, module: str | None = None) -> list[int]:
        """An array of the program's, or of a module whose path ends so."""
        exe = os.readlink(f"/proc/{self.pid}/exe")
        paths = (v.path for v in self._maps if v.path is not None)
        path = exe if module is None else next(path for path in paths if path.endswith(module))
        self.name(next(v.start for v in self._maps if v.path == path))
        bias, table = self._tables[path]
        found = table.named(symbol)
        assert found is not None
        return list(struct.unpack(f"<{count}Q", self.memory.read(bias + found.address, 8 * count)))

    def stack(self, block: int) -> list[str]:
        """Names of the functions on the stack that allocated it; the caller of malloc first."""
        number, _ = self.record(block)
        return [self.name(ip - 1) for ip in self.site(number).frames]


class Parent:
    """Listens; calls `at_end` with every process that waits at its end, and then lets it go on. Use as a context manager."""

    def __init__(self, library: Path, at_end: Callable[[Process], None], *, answers: bool = True) -> None:
        self._library, self._at_end, self._answers = library, at_end, answers
        self._folder = tempfile.TemporaryDirectory()
        self.socket_path = str(Path(self._folder.name) / "s")
        self.lines: list[str] = []
        self._failure: BaseException | None = None
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.socket_path)
        self._listener.listen(64)
        self._ends = False
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends = True
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(self.socket_path)
        self._thread.join()
        self._listener.close()
        for connection in self._open:
            connection.close()
        self._folder.cleanup()
        if self._failure is not None:
            raise self._failure

    def environment(self, **more: str) -> dict[str, str]:
        """What the program is started with."""
        return {**os.environ, "LD_PRELOAD": str(self._library), "LEAKLINE_AGENT_SOCKET": self.socket_path, **more}

    def run(self, *command: object, timeout: float = 60, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a program to its end."""
        arguments = [str(part) for part in command]
        return subprocess.run(
            arguments, capture_output=True, text=True, env=self.environment(**more), timeout=timeout, check=False, errors="replace"
        )

    def heard(self, what: str) -> list[list[str]]:
        """The lines of that kind, in words."""
        return [words for line in self.lines if (words := line.split())[0] == what]

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            connection.settimeout(10)
            line = connection.makefile().readline()
            if not line and self._ends:
                connection.close()
                return
            self.lines.append(line)
            words = line.split()
            if words and words[0] == "exit":
                try:
                    self._at_end(Process(int(words[1]), int(words[3], 16)))
                except BaseException as error:  # noqa: BLE001
                    self._failure = self._failure or error
                if not self._answers:
                    self._open.append(connection)
                    continue
                connection.send(b"\n")
            connection.close()


def wait_for(condition: Callable[[], object], seconds: float = 10) -> None:
    """Until it is true."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)
