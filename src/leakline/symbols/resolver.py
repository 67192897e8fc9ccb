"""Frames for the addresses of a process."""

from __future__ import annotations

import bisect
import os
from typing import TYPE_CHECKING

import msgspec

from leakline.errors import NotPossible, ParseError
from leakline.formats.eh_frame import FrameTable
from leakline.formats.elf import Elf, SymbolTable
from leakline.model.names import readable
from leakline.model.stack import Frame, SourceLocation
from leakline.symbols.addr2line import source_lines
from leakline.symbols.debug_files import find_debug_file
from leakline.symbols.demangle import demangle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from leakline.formats.eh_frame import FrameRow, FrameRule
    from leakline.model.vma import Vma


class _Module(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    path: bytes | None
    lines_in: bytes | None
    symbols: SymbolTable
    build_id: str | None
    frames: FrameTable | None
    loads: Callable[[int], int | None]
    bias: Callable[[int, int], int | None]


class Resolver:
    """Looks addresses up in the modules that a process maps. Each module's file is opened once.

    Args:
        vmas: the process's mappings.
        open_as: a path by which a mapping's file can be opened, None if there is none.
        root: the process's root folder, for debug files of its own mount namespace.

    """

    def __init__(self, vmas: Sequence[Vma], open_as: Callable[[Vma], bytes | None], root: bytes) -> None:
        self._vmas = sorted(vmas, key=lambda vma: vma.start)
        self._starts = [vma.start for vma in self._vmas]
        self._open_as = open_as
        self._root = root
        self._modules: dict[tuple[tuple[int, int], int, str], _Module] = {}
        self.problems: list[str] = []

    def over(self, vmas: Sequence[Vma]) -> Resolver:
        """A resolver over other mappings that shares the modules which are open already."""
        other = Resolver(vmas, self._open_as, self._root)
        other._modules, other.problems = self._modules, self.problems
        return other

    def vma_at(self, address: int) -> Vma | None:
        """The mapping that holds the address."""
        index = bisect.bisect_right(self._starts, address) - 1
        return self._vmas[index] if index >= 0 and address in self._vmas[index] else None

    def frame_rule(self, address: int) -> FrameRule | None:
        """How to find the caller of the frame that is at this address; None where that is not known."""
        at = self.place_of(address)
        return None if at is None or at[0].frames is None else at[0].frames.rule(at[1])

    def frame_row(self, address: int) -> FrameRow | None:
        """All that call frame information says of the frame that is at this address; None where it says nothing."""
        at = self.place_of(address)
        return None if at is None or at[0].frames is None else at[0].frames.row(at[1])

    def is_signal_frame(self, address: int) -> bool:
        """Whether the code at an address is what a signal handler returns to."""
        row = self.frame_row(address)
        return row is not None and row.is_signal_frame

    def debug_place(self, address: int) -> tuple[bytes, int] | None:
        """The file with the debug information of an address, and what it is there (ELF virtual address); None without any."""
        at = self.place_of(address)
        return None if at is None or at[0].lines_in is None else (at[0].lines_in, at[1])

    def frames(self, addresses: Iterable[int], *, returns: bool = True) -> dict[int, tuple[Frame, ...]]:
        """The frames at each address, inlined ones first.

        Args:
            addresses: in the process.
            returns: they are return addresses: the call lies one byte before, perhaps on an earlier line.

        """
        return frames_together([(self, addresses, returns)])[0]

    def place_of(self, address: int) -> tuple[_Module, int] | None:
        """The module that an address lies in, and its ELF virtual address there."""
        vma = self.vma_at(address)
        module = None if vma is None else self._module(vma)
        place = None if vma is None or module is None else module.loads(address - vma.start + vma.offset)
        return None if module is None or place is None else (module, place)

    def nameless(self, address: int, step: int) -> Frame:
        """The frame of an address that lies in no module's file."""
        vma = self.vma_at(address - step)
        name = None if vma is None or vma.path is None else readable(vma.path)
        return Frame(function=None, file=None, line=None, module=name, address=address)

    def in_module(self, module: _Module, places: Iterable[int], step: int) -> dict[int, tuple[Frame, ...]]:
        """The frames at each place of a module."""
        return self._in_module(module, {place: place for place in places}, step)

    def _in_module(self, module: _Module, places: dict[int, int], step: int) -> dict[int, tuple[Frame, ...]]:
        answers: list[list[SourceLocation]] = [[] for _ in places]
        if module.lines_in is not None:
            try:
                answers = source_lines(module.lines_in, list(places.values()))
            except NotPossible as error:
                self.problems.append(f"{module.name}: {error.message}")
        symbols = {place: module.symbols.at(place) for place in places.values()}
        readable_names = demangle(symbol.name for symbol in symbols.values() if symbol is not None)
        frames = {}
        for (address, place), locations in zip(places.items(), answers, strict=True):
            symbol = symbols[place]
            if not locations:
                name = None if symbol is None else readable_names.get(symbol.name, symbol.name)
                locations = [SourceLocation(function=name, file=None, line=None)]
            known = locations[0].line is not None
            frames[address] = tuple(
                Frame(
                    function=location.function,
                    file=location.file,
                    line=location.line,
                    module=module.name,
                    address=place,
                    inlined=position < len(locations) - 1,
                    offset=None if known or symbol is None else place + step - symbol.address,
                    build_id=None if known else module.build_id,
                )
                for position, location in enumerate(locations)
            )
        return frames

    def data_symbols(self, addresses: Iterable[int]) -> dict[int, str]:
        """The names of the objects that lie at addresses of modules' data, such as C++ vtables; others are left out."""
        found = {address: name for address in set(addresses) if (name := self._data_symbol(address)) is not None}
        names = demangle(found.values())
        return {address: names.get(name, name) for address, name in found.items()}

    def _data_symbol(self, address: int) -> str | None:
        variable = self.variable(address)
        return None if variable is None else variable[1]

    def variable(self, address: int) -> tuple[str, str | None, int] | None:
        """The module whose data (.bss too) lies at an address, the object there, and how far into it; None for other memory."""
        vma = self.vma_at(address)
        # .bss goes on in anonymous memory right behind the module's last mapping.
        while vma is not None and vma.path is None and vma.perms[1] == "w":
            vma = self.vma_at(vma.start - 1)
        module = None if vma is None else self._module(vma)
        if vma is None or module is None:
            return None
        bias = module.bias(vma.start, vma.offset)
        symbol = None if bias is None else module.symbols.at(address - bias)
        if symbol is None or bias is None:
            return module.name, None, 0
        return module.name, symbol.name, address - bias - symbol.address

    def _module(self, vma: Vma) -> _Module | None:
        if not vma.is_file or vma.path is None:
            return None
        key = (vma.device, vma.inode, vma.path)
        if key not in self._modules:
            self._modules[key] = self._open(vma, vma.path)
        return self._modules[key]

    def _open(self, vma: Vma, path: str) -> _Module:
        name = readable(os.path.basename(path.removesuffix(" (deleted)")))
        nothing = _Module(
            name=name,
            path=None,
            lines_in=None,
            symbols=SymbolTable([]),
            build_id=None,
            frames=None,
            loads=lambda offset: offset,
            bias=lambda start, offset: start - offset,
        )
        opened = self._open_as(vma)
        if opened is None:
            self.problems.append(f"{name}: its file was replaced or deleted since the process mapped it")
            return nothing
        try:
            with Elf.open(opened, name) as elf:
                real = os.fsencode(path.removesuffix(" (deleted)"))
                debug = find_debug_file(opened, elf, real_path=real, roots=(self._root, b""))
                symbols = elf.symbols()
                if debug not in (None, opened) and debug is not None:
                    with Elf.open(debug, os.fsdecode(debug)) as richer:
                        symbols = richer.symbols()
                return _Module(
                    name=name,
                    path=opened,
                    lines_in=debug,
                    symbols=symbols,
                    build_id=elf.build_id,
                    frames=elf.frame_table(),
                    loads=elf.address_of_offset,
                    bias=elf.load_bias,
                )
        except (ParseError, OSError) as error:
            self.problems.append(f"{name}: {error}")
            return nothing


def frames_together(wanted: Sequence[tuple[Resolver, Iterable[int], bool]]) -> list[dict[int, tuple[Frame, ...]]]:
    """The frames of addresses in several resolvers: modules that they share are asked once.

    Args:
        wanted: a resolver, addresses, and whether these are return addresses (the call lies one byte before).

    """
    batches: dict[tuple[int, int], tuple[Resolver, _Module, set[int]]] = {}
    placed: list[dict[int, tuple[int, int, int]]] = []
    found: list[dict[int, tuple[Frame, ...]]] = []
    for resolver, addresses, returns in wanted:
        step = 1 if returns else 0
        here, known = dict[int, tuple[int, int, int]](), dict[int, tuple[Frame, ...]]()
        for address in set(addresses):
            at = resolver.place_of(address - step)
            if at is None:
                known[address] = (resolver.nameless(address, step),)
                continue
            module, place = at
            batches.setdefault((id(module), step), (resolver, module, set()))[2].add(place)
            here[address] = id(module), step, place
        placed.append(here)
        found.append(known)
    answers = {key: resolver.in_module(module, places, key[1]) for key, (resolver, module, places) in batches.items()}
    for here, known in zip(placed, found, strict=True):
        known |= {address: answers[module, step][place] for address, (module, step, place) in here.items()}
    return found
