"""Explaining a SIGSEGV or SIGBUS: of a process that stands still at the signal, or from its core dump."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from leakline.analysis.crash import ENDED, GOING_ON, CrashFacts, code_name, explain, functions_of, judge_crash, repetition
from leakline.analysis.locating import answering_frame
from leakline.errors import LeaklineError
from leakline.model.faults import Crash, FaultGroup, FaultVma
from leakline.model.stack import Frame
from leakline.present.text import place
from leakline.symbols.disassembling import LONGEST, disassemble
from leakline.symbols.fault_stacks import walk
from leakline.symbols.variables import null_field

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from leakline.analysis.address_space import AddressSpace
    from leakline.analysis.crash import Judged
    from leakline.formats.instructions import Instruction
    from leakline.model.faults import Field
    from leakline.model.vma import Vma
    from leakline.symbols.resolver import Resolver

_MOST_DEPTH = 400_000
_SHOWN = 64
_SHOWN_OF_CYCLE = 12
_LONGEST_TEXT, _SHORTEST_TEXT = 40, 3
_STACK_PIECE, _MOST_PIECES = 1 << 16, 64
_NOWHERE = ("no-vma", "stack-overflow")


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """A thread that got a fatal signal, and what is around it."""

    pid: int
    tid: int
    command: str
    signal: Literal["SIGSEGV", "SIGBUS"]
    code: int
    address: int
    sender: int | None
    registers: Mapping[str, int]
    handled: bool
    space: AddressSpace
    resolver: Resolver
    read: Callable[[int, int], bytes]
    """Memory: fewer bytes where there are none."""
    stack_limit: int | None
    size_of_file: Callable[[Vma], int | None]


def explain_crash(scene: Scene) -> FaultGroup:
    """What happened, where, and why."""
    registers = dict(scene.registers)
    ip, sp = registers.get("rip", 0), registers.get("rsp", 0)
    code = scene.read(ip, LONGEST)
    instruction = _disassembled(code) if scene.space.at(ip) is not None and "x" in _perms(scene, ip) else None
    facts = _facts(scene, registers, sp, instruction)
    judged = judge_crash(facts)
    addresses = _walk(scene, ip, sp, registers.get("rbp", 0))
    frames = _frames(scene, addresses)
    stack = tuple(frame for address in addresses[:_SHOWN] for frame in frames.get(address, ()))
    again = None
    if judged.cause == "stack-overflow":
        again = repetition(_names(addresses, frames))
        stack = stack[:_SHOWN_OF_CYCLE] if again is not None else stack
    answer = answering_frame(stack)
    if judged.access == "exec" and facts.vma is not None and "x" not in facts.vma.perms:
        answer = next((i for i, f in enumerate(stack) if i and answering_frame((f,)) is not None), answer)
    vma = scene.space.at(judged.address)
    described = None if vma is None else scene.space.describe(vma)
    variable = scene.resolver.variable(judged.address) if vma is not None and vma.is_file else None
    crash = Crash(
        signal=scene.signal,
        fatal=not scene.handled,
        handled=scene.handled,
        code=code_name(scene.signal, scene.code),
        pid=scene.pid,
        tid=scene.tid,
        command=scene.command,
        instruction=None if instruction is None else instruction.at(ip),
        instruction_address=ip,
        registers=registers,
        neighbours=scene.space.neighbours(judged.address) if judged.cause in _NOWHERE and described is None else (),
        symbol=None if variable is None else variable[1],
        text=_literal(scene, judged, described),
        field=_field(scene, judged, instruction, registers),
        was=scene.space.was_at(judged.address) if described is None else None,
        repetition=again,
        stack_limit=scene.stack_limit if judged.cause == "stack-overflow" else None,
        file_size=facts.file_size,
    )
    return _group(crash, judged, facts, described, stack, answer)


def _group(
    crash: Crash, judged: Judged, facts: CrashFacts, vma: FaultVma | None, stack: tuple[Frame, ...], answer: int | None
) -> FaultGroup:
    location = None if answer is None else stack[answer].location
    where = "at a place that is not known"
    if location is not None and location.line is not None:
        where = f"at {(location.file or '').rsplit('/', 1)[-1]}:{location.line}" + (
            f" in {location.function}" if location.function else ""
        )
    elif location is not None:
        where = f"at {place(location, stack)}"
    return FaultGroup(
        kind="segv" if crash.signal == "SIGSEGV" else "sigbus",
        cause=judged.cause,
        access=judged.access,
        count=1,
        bytes=0,
        huge=None,
        by="program",
        address=None if judged.cause in ("sent", "unknown") else judged.address,
        vma=vma,
        threads=1,
        tid=crash.tid,
        location=location,
        location_is=None if answer is None else "recorded",
        stack=stack,
        explanation=explain(crash, judged, vma, where, facts),
        crash=crash,
    )


def with_end(group: FaultGroup, *, fatal: bool) -> FaultGroup:
    """A fault that the program's own handler met, when it is known whether the process ended by it."""
    if group.crash is None or group.crash.fatal == fatal:
        return group
    crash = msgspec.structs.replace(group.crash, fatal=fatal)
    explanation = group.explanation.replace(GOING_ON, ENDED)
    return msgspec.structs.replace(group, crash=crash, explanation=explanation)


def _perms(scene: Scene, address: int) -> str:
    vma = scene.space.at(address)
    return "" if vma is None else vma.perms


def _disassembled(code: bytes) -> Instruction | None:
    try:
        return disassemble([code])[0] if code else None
    except LeaklineError:
        return None  # without binutils it goes unsaid


def _facts(scene: Scene, registers: dict[str, int], sp: int, instruction: Instruction | None) -> CrashFacts:
    vma = scene.space.at(scene.address)
    stack = scene.space.at(sp) or next((v for v in scene.space.vmas if v.start > sp), None)
    size = None if vma is None or not vma.is_file else scene.size_of_file(vma)
    return CrashFacts(
        signal=scene.signal,
        code=scene.code,
        address=scene.address,
        sender=scene.sender,
        registers=registers,
        instruction=instruction,
        vma=None if vma is None else scene.space.describe(vma),
        neighbours=scene.space.neighbours(scene.address),
        goes_to=None if instruction is None else instruction.goes_to(registers, lambda address: _word(scene, address)),
        stack=None if stack is None else scene.space.describe(stack, sp if sp in stack else stack.start),
        offset_in_file=None if vma is None or not vma.is_file else scene.address - vma.start + vma.offset,
        file_size=size,
    )


def _literal(scene: Scene, judged: Judged, vma: FaultVma | None) -> str | None:
    """The text that a write to constants would have changed."""
    if judged.access != "write" or vma is None or vma.kind != "rodata":
        return None
    data, end, _ = scene.read(judged.address, _LONGEST_TEXT).partition(b"\0")
    text = data.decode("ascii", "replace")
    if len(text) < _SHORTEST_TEXT or not text.isprintable() or not text.isascii():
        return None
    return text if end else f"{text}..."


def _word(scene: Scene, address: int) -> int | None:
    data = scene.read(address, 8)
    return int.from_bytes(data, "little") if len(data) == 8 else None


def _walk(scene: Scene, ip: int, sp: int, bp: int) -> tuple[int, ...]:
    pieces: dict[int, bytes] = {}

    def word(address: int) -> int | None:
        number, inside = divmod(address, _STACK_PIECE)
        if number not in pieces:
            if len(pieces) >= _MOST_PIECES:
                pieces.clear()
            start = number * _STACK_PIECE
            found = scene.read(start, _STACK_PIECE)
            if not found:  # the piece begins below the stack
                first = next((v.start for v in scene.space.vmas if start < v.start < start + _STACK_PIECE), None)
                found = b"" if first is None else bytes(first - start) + scene.read(first, start + _STACK_PIECE - first)
            pieces[number] = found
        data = pieces[number][inside : inside + 8]
        return int.from_bytes(data, "little") if len(data) == 8 else None

    def is_code(address: int) -> bool:
        return "x" not in _perms(scene, ip) and "x" in _perms(scene, address)

    return walk(ip, sp, bp, word, scene.resolver.frame_rule, _MOST_DEPTH, is_code, scene.resolver.is_signal_frame).frames


def _frames(scene: Scene, addresses: Sequence[int]) -> dict[int, tuple[Frame, ...]]:
    found = scene.resolver.frames(set(addresses[1:]))
    first = scene.resolver.frames(addresses[:1], returns=False)
    for address, frames in first.items():
        if "x" not in _perms(scene, address):
            variable = scene.resolver.variable(address)
            if variable is not None and variable[1] is not None:  # data that were run as code
                frames = (msgspec.structs.replace(frames[0], function=variable[1], module=variable[0]),)
        found[address] = frames
    return found


def _names(addresses: Sequence[int], frames: Mapping[int, tuple[Frame, ...]]) -> list[str]:
    return [name for address in addresses for name in functions_of(frames.get(address, ()))]


def _field(scene: Scene, judged: Judged, instruction: Instruction | None, registers: dict[str, int]) -> Field | None:
    """The member of a structure that a NULL pointer was to lead to."""
    if judged.cause != "no-vma" or judged.address >= 1 << 16 or instruction is None:
        return None
    access = instruction.access_to(judged.address, registers)
    if access is None or (access.base is not None and registers.get(access.base) != 0):
        return None
    debug = scene.resolver.debug_place(registers["rip"])
    if debug is None:
        return None
    rule = scene.resolver.frame_rule(registers["rip"])
    cfa = None if rule is None else registers["rsp" if rule.register == 7 else "rbp"] + rule.offset

    try:
        return null_field(*debug, judged.address, registers, cfa, lambda address: _word(scene, address))
    except LeaklineError:
        return None
