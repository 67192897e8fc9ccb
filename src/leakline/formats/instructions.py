"""What an x86-64 instruction does to memory, from objdump's disassembly in Intel's notation."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

SLOT = 32
"""Instructions are disassembled from slots of so many bytes: one has at most 15, and what follows it is in step again by then."""

_LINE = re.compile(r"\s*([0-9a-f]+):\t([^\t]*)")
_MEMORY = re.compile(r"(?:(?P<segment>[c-gs]s):)?(?:\[(?P<inside>[^\]]*)\]|(?P<absolute>0x[0-9a-f]+))$")
_TERM = re.compile(r"([+-]?)([a-z][a-z0-9]*)(?:\*([1248]))?|([+-]?)(0x[0-9a-f]+)")
_JUMP = re.compile(r"(?:[a-z]+ )*(?:call|j[a-z]+|loop[a-z]*|xbegin) (0x[0-9a-f]+)")
_PREFIXES = frozenset(
    (
        "lock",
        "rep",
        "repz",
        "repnz",
        "repe",
        "repne",
        "bnd",
        "notrack",
        "data16",
        "addr32",
        "xacquire",
        "xrelease",
        "cs",
        "ds",
        "es",
    )
)
# Instructions that only read what stands first, and those that do not touch memory for all their brackets.
_READS_FIRST = re.compile(
    r"cmp|test|bt|u?comis[sd]|v?u?comis[sd]|v?ptest|vtestp[sd]|jmp|call|push|i?mul|i?div|fld|fild|fbld|fcom|ficom|fi?add|fi?sub"
    r"|fi?mul|fi?div|fldcw|fldenv|frstor|fxrstor|xrstor|v?ldmxcsr|clflush|clwb|lgdt|lidt|verr|verw|cmps|scas|lods|rdfsbase"
)
_TOUCHES_NOTHING = re.compile(r"lea|nop|prefetch|endbr|bnd")
_WRITES_SECOND = frozenset(("xchg",))
_WIDTHS = {"BYTE": 1, "WORD": 2, "DWORD": 4, "QWORD": 8, "TBYTE": 10, "XMMWORD": 16, "YMMWORD": 32, "ZMMWORD": 64, "OWORD": 16}


class MemoryAccess(msgspec.Struct, frozen=True, kw_only=True):
    """One operand in memory: base + index * scale + displacement."""

    access: Literal["read", "write"]
    base: str | None
    index: str | None = None
    scale: int = 1
    displacement: int = 0
    segment: str | None = None
    width: int = 8

    def address(self, registers: dict[str, int], size: int) -> int | None:
        """Where it is; None if a register that it takes is not known. Sizes of the instruction count for rip."""
        value = self.displacement
        for name, scale in ((self.base, 1), (self.index, self.scale)):
            if name is None:
                continue
            if name not in registers:
                return None
            value += registers[name] * scale + (size if name == "rip" else 0)
        if self.segment in ("fs", "gs"):
            base = registers.get(f"{self.segment}_base")
            if base is None:
                return None
            value += base
        return value & (1 << 64) - 1


class Instruction(msgspec.Struct, frozen=True, kw_only=True):
    """One instruction."""

    text: str
    size: int
    accesses: tuple[MemoryAccess, ...]
    distance: int | None = None
    """Of a relative jump or call, from its own start to where it leads."""

    def at(self, address: int) -> str:
        """The text, with the address that a jump or call leads to when the instruction stands here."""
        if self.distance is None:
            return self.text
        return f"{self.text.rpartition(' ')[0]} {address + self.distance & (1 << 64) - 1:#x}"

    def goes_to(self, registers: dict[str, int], word: Callable[[int], int | None]) -> int | None:
        """Where a return, or a jump or call by a register, leads; None for other instructions."""
        words = self.text.removeprefix("bnd ").removeprefix("notrack ").split(" ")
        if words[0] == "ret":
            return word(registers["rsp"]) if "rsp" in registers else None
        if words[0] in ("call", "jmp") and len(words) == 2:
            return registers.get(words[1])
        return None

    def access_to(self, address: int, registers: dict[str, int]) -> MemoryAccess | None:
        """The operand that lies at an address, or the only one that there is; None where that cannot be told."""
        placed = [(access, access.address(registers, self.size)) for access in self.accesses]
        near = [a for a, at in placed if at is not None and at <= address < at + max(a.width, 1)]
        if near:
            return near[0]
        if len(self.accesses) == 1:
            return self.accesses[0]
        unknown = [a for a, at in placed if at is None]
        if len(unknown) == 1:
            return unknown[0]
        close = [(abs(at - address), number) for number, (_, at) in enumerate(placed) if at is not None]
        return self.accesses[min(close)[1]] if close and min(close)[0] < 1 << 16 else None


def parse_disassembly(output: str, count: int) -> list[Instruction | None]:
    """The first instruction of each slot; None where there is none."""
    lines = [(int(match[1], 16), match[2].strip()) for line in output.split("\n") if (match := _LINE.match(line))]
    found: list[Instruction | None] = [None] * count
    for number, (at, text) in enumerate(lines):
        slot, inside = divmod(at, SLOT)
        if inside or slot >= count or not text or text.startswith(("(bad)", ".byte")):
            continue
        following = lines[number + 1][0] if number + 1 < len(lines) else at + 1
        text = re.sub(r"\s+", " ", text.partition("#")[0].partition("<")[0]).strip()
        jump = _JUMP.fullmatch(text)
        distance = None if jump is None else _signed(int(jump[1], 16) - at & (1 << 64) - 1)
        found[slot] = Instruction(text=text, size=following - at, accesses=memory_accesses(text), distance=distance)
    return found


def memory_accesses(text: str) -> tuple[MemoryAccess, ...]:
    """What an instruction reads and writes in memory, the stack included."""
    words = text.split(" ")
    while len(words) > 1 and (words[0] in _PREFIXES or words[0].startswith("rex")):
        words = words[1:]
    name, operands = words[0], _operands(" ".join(words[1:]))
    if _TOUCHES_NOTHING.match(name):
        return ()
    found = []
    for place, operand in enumerate(operands):
        memory = _memory(operand)
        if memory is None:
            continue
        reads = bool(_READS_FIRST.fullmatch(name.rstrip("p")) or _READS_FIRST.fullmatch(name)) if place == 0 else True
        if place == 1 and name in _WRITES_SECOND:
            reads = False
        found.append(msgspec.structs.replace(memory, access="read" if reads else "write"))
    if name in ("push", "call", "enter", "pushf", "pushfq"):
        found.append(MemoryAccess(access="write", base="rsp", displacement=-8))
    elif name in ("pop", "ret", "leave", "popf", "popfq", "iret", "iretq"):
        found.append(MemoryAccess(access="read", base="rbp" if name == "leave" else "rsp"))
    return tuple(found)


def _operands(text: str) -> list[str]:
    found, depth, last = [], 0, 0
    for at, letter in enumerate(text):
        depth += (letter in "[{(") - (letter in "]})")
        if letter == "," and not depth:
            found.append(text[last:at].strip())
            last = at + 1
    return [*found, text[last:].strip()] if text.strip() else []


def _memory(operand: str) -> MemoryAccess | None:
    operand = operand.partition("{")[0].strip()
    words, width = operand.split(" "), 8
    if len(words) > 2 and words[1] in ("PTR", "BCST"):
        width, operand = _WIDTHS.get(words[0], 8), " ".join(words[2:])
    match = _MEMORY.match(operand)
    if match is None or (match["absolute"] is not None and match["segment"] is None):
        return None
    if match["absolute"] is not None:
        displacement = int(match["absolute"], 16)
        return MemoryAccess(access="read", base=None, displacement=_signed(displacement), segment=match["segment"], width=width)
    base = index = None
    scale, displacement = 1, 0
    for term in _TERM.finditer(match["inside"]):
        if term[5]:
            value = int(term[5], 16)
            displacement += -value if term[4] == "-" else value
        elif term[3] or base is not None:
            index, scale = (None, 1) if term[2] in ("riz", "eiz") else (term[2], int(term[3] or 1))
        else:
            base = term[2]
    return MemoryAccess(
        access="read",
        base=base,
        index=index,
        scale=scale,
        displacement=_signed(displacement),
        segment=match["segment"],
        width=width,
    )


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value
