"""What the agent (native/agent/) recorded in a process, read from outside."""

from __future__ import annotations

import bisect
import ctypes
import os
import struct
import zlib
from contextlib import closing
from typing import TYPE_CHECKING, Literal, TypeVar

import msgspec

from leakline.errors import ParseError
from leakline.formats.elf import Elf
from leakline.model.vma import Vma
from leakline.native.heap import MemoryCopy, SiteRecords
from leakline.native.parts import AGENT
from leakline.sources.remote_memory import PAGE, PageMap, RemoteMemory, buffer_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from leakline.model.ranges import Range
    from leakline.sources.procfs import ProcFs

Phase = Literal["starting", "recording", "waiting", "off"]
_PHASES: tuple[Phase, ...] = ("starting", "recording", "waiting", "off")
_MAGIC, _VERSION = 0x656E696C6B61656C, 4
_MOST_RANGES = 32
_UNKNOWN_SIZE = 0xFFFFFFFF
_ANY_SITE = 0xFFFFFFFF
_MOST_FRAMES = 1 << 12
_COMPLETE = 1
_SYMBOL = "leakline_agent_state"
_Item = TypeVar("_Item", bound=ctypes.Structure)


class _Range(ctypes.Structure):
    _fields_ = (("start", ctypes.c_uint64), ("end", ctypes.c_uint64))


class _State(ctypes.Structure):
    """struct agent_state of native/agent/agent.h."""

    _fields_ = (
        ("magic", ctypes.c_uint64),
        ("version", ctypes.c_uint32),
        ("phase", ctypes.c_uint32),
        ("shadow", ctypes.c_uint64),
        ("sites", ctypes.c_uint64),
        ("n_sites", ctypes.c_uint64),
        ("frames", ctypes.c_uint64),
        ("n_frames", ctypes.c_uint64),
        ("allocations", ctypes.c_uint64),
        ("memo_hits", ctypes.c_uint64),
        ("memo_misses", ctypes.c_uint64),
        ("truncated", ctypes.c_uint64),
        ("waiting_tid", ctypes.c_int32),
        ("exit_status", ctypes.c_int32),
        ("waiting_sp", ctypes.c_uint64),
        ("waiting_registers", ctypes.c_uint64 * 6),
        ("own", _Range * _MOST_RANGES),
        ("n_own", ctypes.c_uint64),
        ("shadow_enabled", ctypes.c_uint64),
        ("why_off", ctypes.c_char * 128),
        ("threads", ctypes.c_uint64),
        ("forked", ctypes.c_uint64),
        ("table", ctypes.c_uint64),
        ("first_slots", ctypes.c_uint64),
        ("table_levels", ctypes.c_uint32),
        ("other_allocator", ctypes.c_uint32),
        ("unloaded", ctypes.c_uint64),
        ("n_unloaded", ctypes.c_uint64),
        ("modules", ctypes.c_uint64),
        ("n_modules", ctypes.c_uint64),
        ("names", ctypes.c_uint64),
        ("names_size", ctypes.c_uint64),
        ("usable_sizes", ctypes.c_uint64),
    )


class _Unloaded(ctypes.Structure):
    """struct unloaded of native/agent/agent.h."""

    _fields_ = (
        ("start", ctypes.c_uint64),
        ("end", ctypes.c_uint64),
        ("offset", ctypes.c_uint64),
        ("n_sites", ctypes.c_uint32),
        ("name", ctypes.c_uint32),
        ("build_id_size", ctypes.c_uint32),
        ("build_id", ctypes.c_uint8 * 20),
    )


class _Module(ctypes.Structure):
    """struct module of native/agent/agent.h."""

    _fields_ = (("looked_up", ctypes.c_uint64 * 4), ("code", _Unloaded), ("seen", ctypes.c_uint64))


_SITE = struct.Struct("<IHHII")
_REACHED_OUTERMOST = 1
_MOST_SITE_FRAMES = 64
_THREAD_WORDS, _MOST_THREADS = 8, 1024  # struct thread of native/agent/agent.h: allocations, misses, truncated come first
_SLOT = struct.Struct("<QII")
_MOST_LEVELS = 32
_PIECE = 1 << 24
_MOST_UNLOADED, _MOST_MODULES, _MOST_NAMES = 16384, 32768, 256 << 10
UNLOADED_CODE = 1 << 62
"""From here on lie, each in 4 GiB of its own, the modules that a process has unloaded: no process has anything there."""
_APART, _MOST_PLACES = 1 << 32, 1 << 30


class AgentState(msgspec.Struct, frozen=True, kw_only=True):
    """The agent's own account of itself."""

    phase: Phase
    why_off: str
    allocations: int
    """Recorded so far."""
    memo_hits: int
    memo_misses: int
    truncated: int
    """Stacks whose outermost frame was not reached."""
    waiting_tid: int
    """The thread that waits for the check at the end; 0 while none does."""
    waiting_stack_pointer: int
    """Where its stack ended when it began to wait, on a stack of the agent's; in handlers of exit, where that of its caller did."""
    waiting_registers: tuple[int, ...]
    """Rbx rbp r12 r13 r14 r15, of the same."""
    own: tuple[Range, ...]
    """Memory of the agent itself: it holds no pointers of the program's."""
    forked: bool
    """It is a copy of its parent, which has started no program of its own yet."""
    shadow_enabled: int
    """Bytes of the table of sites and sizes that can be written."""
    keeps_table: bool
    """It keeps the live blocks in a table, as there is no room for a shadow, or the allocator is not glibc's."""
    other_allocator: bool
    """The program's allocator is not glibc's: what is live is known, what is lost is not."""
    usable_sizes: bool
    """The program has called malloc_usable_size(3): it may use more of a block than it asked for."""


class Recorded(msgspec.Struct, frozen=True, gc=False):
    """Who allocated a block."""

    size: int | None
    """As requested; None where that is not known."""
    stack: tuple[int, ...]
    """Return addresses, the allocator's caller first; in a module that has been unloaded, where UnloadedModule.vma has it."""
    cut: Literal["no call frame information", "too deep"] | None = None
    """Why the stack ends before the program's outermost frame."""


class UnloadedModule(msgspec.Struct, frozen=True):
    """Code that was unloaded, which stacks still pass through."""

    vma: Vma
    """Where its addresses in stacks lie now: the same for the same file, wherever that was loaded, and however often."""
    build_id: str | None


class _Gone(msgspec.Struct, frozen=True):
    """Where code was, until it was unloaded."""

    start: int
    end: int
    before_site: int
    """Sites from this number on are later."""
    now: int
    """Where it lies now."""


class Counts(msgspec.Struct, frozen=True):
    """What a process has allocated."""

    allocations: int
    memo_hits: int
    memo_misses: int
    truncated: int


class Agent:
    """Reads the agent's tables in a process.

    Args:
        procfs: where it is.
        pid: which.
        address: of its struct agent_state.

    Raises:
        ParseError: there is none, or it is of another version.

    """

    def __init__(self, procfs: ProcFs, pid: int, address: int) -> None:
        self._procfs, self._pid = procfs, pid
        self._memory = RemoteMemory(procfs.root, pid)
        self.address = address
        """Of its struct agent_state."""
        self._stacks: dict[int, tuple[int, ...]] = {}
        self._cut: dict[int, Literal["no call frame information", "too deep"]] = {}
        self._gone: tuple[_Gone, ...] = ()
        self._unloaded: dict[int, UnloadedModule] = {}
        self.state()

    def state(self) -> AgentState:
        """As it is now."""
        raw = self._raw()
        return AgentState(
            phase=_PHASES[raw.phase] if raw.phase < len(_PHASES) else "off",
            why_off=raw.why_off.decode(errors="replace"),
            allocations=raw.allocations,
            memo_hits=raw.memo_hits,
            memo_misses=raw.memo_misses,
            truncated=raw.truncated,
            waiting_tid=raw.waiting_tid,
            waiting_stack_pointer=raw.waiting_sp,
            waiting_registers=tuple(raw.waiting_registers),
            own=tuple((r.start, r.end) for r in raw.own[: min(raw.n_own, _MOST_RANGES)] if r.start < r.end),
            forked=bool(raw.forked),
            shadow_enabled=raw.shadow_enabled,
            keeps_table=bool(raw.table),
            other_allocator=bool(raw.other_allocator),
            usable_sizes=bool(raw.usable_sizes),
        )

    def counts(self) -> Counts:
        """The sums over all threads, as they are now."""
        raw = self._raw()
        data = self._memory.read(raw.threads, _MOST_THREADS * _THREAD_WORDS * 8) if raw.threads else b""
        words = struct.unpack(f"<{len(data) // 8}Q", data[: len(data) // 8 * 8])
        allocations, misses, truncated = (sum(words[place::_THREAD_WORDS]) for place in range(3))
        return Counts(allocations, max(allocations - misses, 0), misses, truncated)

    def _raw(self) -> _State:
        data = self._memory.read(self.address, ctypes.sizeof(_State))
        if len(data) < ctypes.sizeof(_State):
            raise ParseError("the agent's tables cannot be read", hint="Start the program with `leakline run` again.")
        raw = _State.from_buffer_copy(data)
        if (raw.magic, raw.version) != (_MAGIC, _VERSION):
            raise ParseError(
                "the agent in the process is of another version of leakline", hint="Start the program with `leakline run` again."
            )
        return raw

    def recorded(self, addresses: Iterable[int]) -> dict[int, Recorded]:
        """Who allocated the blocks at these addresses; those of which nothing is known are left out."""
        raw = self._raw()
        wanted = list(addresses)
        self._look_for_unloaded(raw)
        if raw.table:
            live = self._live(raw)
            return {address: live[address] for address in wanted if address in live}
        if not raw.shadow:
            return {}
        entries = self._memory.gather([raw.shadow + (address >> 4) * 4 for address in wanted], 8)
        found = {}
        for address, entry in zip(wanted, entries, strict=True):
            site, size = struct.unpack("<II", entry) if len(entry) == 8 else (0, 0)
            stack = self._stack(raw, site)
            if stack:
                found[address] = Recorded(None if size == _UNKNOWN_SIZE else size, stack, self._cut.get(site))
        return found

    def records(self, runs: Sequence[Range], *, bounds: bool = False) -> SiteRecords:
        """What is recorded of the blocks in these runs of memory, as it is now.

        Args:
            runs: the memory.
            bounds: they are records of those very blocks: no thread has run since `runs` were copied.

        """
        raw = self._raw()
        if not raw.shadow:
            return SiteRecords(copy=MemoryCopy(buffer_for(PAGE), []), table=0, bounds=False)
        first = raw.shadow + (min((start for start, _ in runs), default=0) >> 4) * 4
        last = raw.shadow + (max((end for _, end in runs), default=0) >> 4) * 4 + PAGE
        # What was never needed is reserved, but not to be read.
        table = [v for v in self._procfs.maps(self._pid) if "rw" in v.perms and v.start < last and first < v.end]
        table = [msgspec.structs.replace(v, start=max(v.start, first & -PAGE), end=min(v.end, last & -PAGE)) for v in table]
        with PageMap(self._procfs.root, self._pid) as pages:
            written = pages.own_runs(table)
        buffer = buffer_for(sum(end - start for start, end in written))
        with closing(self._memory):
            copy = MemoryCopy(buffer, self._memory.copy(written, buffer))
        return SiteRecords(copy=copy, table=raw.shadow, bounds=bounds and not raw.usable_sizes)

    def stacks(self, numbers: Iterable[int]) -> dict[int, tuple[int, ...]]:
        """The return addresses of sites, by their numbers; those that there are not are left out."""
        raw = self._raw()
        self._look_for_unloaded(raw)
        return {number: stack for number in numbers if (stack := self._stack(raw, number))}

    def outstanding(self) -> dict[int, Recorded]:
        """The blocks that are live, by address; none where the agent keeps no table of them."""
        raw = self._raw()
        self._look_for_unloaded(raw)
        return self._live(raw) if raw.table else {}

    def unloaded(self) -> tuple[UnloadedModule, ...]:
        """The modules that stacks may pass through, and that are no longer there."""
        self._look_for_unloaded(self._raw())
        return tuple(self._unloaded.values())

    def _look_for_unloaded(self, raw: _State) -> None:
        """What the agent saw vanish; and what has vanished since it last looked, which it does when something is loaded."""
        names = self._memory.read(raw.names, min(raw.names_size, _MOST_NAMES))
        gone = self._array(_Unloaded, raw.unloaded, min(raw.n_unloaded, _MOST_UNLOADED))
        last = self._modules(raw)
        starts = sorted((vma.start, vma.end) for vma in self._procfs.maps(self._pid) if "x" in vma.perms)
        for code in last:
            at = bisect.bisect_right(starts, (code.start, 1 << 64)) - 1
            if at < 0 or code.start >= starts[at][1]:
                code.n_sites = _ANY_SITE
                gone.append(code)
        found = tuple(
            _Gone(code.start, code.end, code.n_sites, self._place_of(code, names)) for code in gone if code.start < code.end
        )
        if found != self._gone:
            self._gone = found
            self._stacks.clear()  # of sites that pass through them

    def _modules(self, raw: _State) -> list[_Unloaded]:
        count = min(raw.n_modules, _MOST_MODULES)
        modules, again = (self._array(_Module, raw.modules, count) for _ in range(2))
        same = all(bytes(one) == bytes(other) for one, other in zip(modules, again, strict=False))
        return [module.code for module in modules] if same else []  # else it changes them just now

    def _array(self, kind: type[_Item], address: int, count: int) -> list[_Item]:
        size = ctypes.sizeof(kind)
        data = self._memory.read(address, count * size) if count else b""
        return [kind.from_buffer_copy(data, at) for at in range(0, len(data) - size + 1, size)]

    def _place_of(self, code: _Unloaded, names: bytes) -> int:
        name = names[code.name : names.find(b"\0", code.name)] if 0 < code.name < len(names) else b""
        build_id = bytes(code.build_id[: min(code.build_id_size, len(code.build_id))]).hex() or None
        place = zlib.crc32(f"{code.offset} {build_id}".encode() + name) % _MOST_PLACES
        size = min(code.end - code.start, _APART)
        while True:
            start = UNLOADED_CODE + place * _APART
            vma = Vma(start, start + size, "r-xp", code.offset, (0, 0), place + 1, os.fsdecode(name) or None)
            module = UnloadedModule(vma, build_id)
            if self._unloaded.setdefault(start, module) == module:
                return start
            place = (place + 1) % _MOST_PLACES

    def _live(self, raw: _State) -> dict[int, Recorded]:
        if raw.table_levels > _MOST_LEVELS:
            raise ParseError("the agent's table of blocks is damaged", hint="Start the program with `leakline run` again.")
        found = {}
        end = raw.table + raw.first_slots * ((1 << raw.table_levels) - 1) * _SLOT.size
        for start in range(raw.table, end, _PIECE):
            data = self._memory.read(start, min(_PIECE, end - start))
            if not data:
                break
            for address, site, size in _SLOT.iter_unpack(data[: len(data) // _SLOT.size * _SLOT.size]):
                stack = self._stack(raw, site) if address else ()
                if stack:
                    found[address] = Recorded(None if size == _UNKNOWN_SIZE else size, stack, self._cut.get(site))
        return found

    def _stack(self, raw: _State, number: int) -> tuple[int, ...]:
        if not 0 < number < raw.n_sites:
            return ()
        if number not in self._stacks:
            data = self._memory.read(raw.sites + number * _SITE.size, _SITE.size)
            first, count, flags, *_ = _SITE.unpack(data) if len(data) == _SITE.size else (0, 0, _REACHED_OUTERMOST)
            frames = (
                self._memory.read(raw.frames + 8 * first, 8 * min(count, _MOST_FRAMES)) if first + count <= raw.n_frames else b""
            )
            words = struct.unpack(f"<{len(frames) // 8}Q", frames[: len(frames) // 8 * 8])
            self._stacks[number] = tuple(_moved(word, number, self._gone) for word in words) if self._gone else words
            if not flags & _REACHED_OUTERMOST:
                self._cut[number] = "too deep" if count >= _MOST_SITE_FRAMES else "no call frame information"
        return self._stacks[number]


def _moved(address: int, site: int, gone: Sequence[_Gone]) -> int:
    """A return address of a site: if its code has gone since, where that lies now."""
    for code in gone:
        if site < code.before_site and code.start < address <= code.end:
            return code.now + address - code.start
    return address


def find_agent(procfs: ProcFs, pid: int, vmas: Sequence[Vma]) -> Agent | None:
    """The agent in a process that `leakline run` started; None where there is none."""
    first = next((vma for vma in vmas if vma.path is not None and vma.path.endswith(f"/{AGENT}")), None)
    path = None if first is None else procfs.mapped_file(pid, first)
    if first is None or path is None:
        return None
    with Elf.open(path, AGENT) as elf:
        symbol = elf.symbols().named(_SYMBOL)
        bias = elf.load_bias(first.start, first.offset)
    return None if symbol is None or bias is None else Agent(procfs, pid, symbol.address + bias)
