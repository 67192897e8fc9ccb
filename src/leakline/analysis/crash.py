"""What a SIGSEGV or SIGBUS means: from the signal's information, the registers, the instruction and the mappings.

Sources: arch/x86/mm/fault.c and include/uapi/asm-generic/siginfo.h of Linux 6.12; Intel SDM 1, 3.3.7.1 for canonical addresses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leakline.formats.instructions import Instruction
    from leakline.model.faults import Access, Crash, FaultCause, FaultVma, Neighbour, Repetition
    from leakline.model.stack import Frame

_SEGV = {1: "SEGV_MAPERR", 2: "SEGV_ACCERR", 3: "SEGV_BNDERR", 4: "SEGV_PKUERR", 10: "SEGV_CPERR"}
_BUS = {1: "BUS_ADRALN", 2: "BUS_ADRERR", 3: "BUS_OBJERR", 4: "BUS_MCEERR_AR", 5: "BUS_MCEERR_AO"}
_SENT = {0: "SI_USER", -1: "SI_QUEUE", -2: "SI_TIMER", -3: "SI_MESGQ", -4: "SI_ASYNCIO", -6: "SI_TKILL"}
KERNEL_CODE = 0x80
_NULL_PAGE = 1 << 16
_CANONICAL = 1 << 47
_PAGE = 4096
# How far below the stack pointer a function may reach before it has moved it: a frame that is probed or pushed.
_STACK_REACH = 64 << 10
_MOST_STACK = 1 << 30
_GAP = 1 << 20  # stack_guard_gap: 256 pages
_LONGEST_CYCLE = 64
_FAR = 1 << 30
ENDED, GOING_ON = "ran; then the program ended by it.", "ran, and the program did not end by it."


class CrashFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What was found when the signal came."""

    signal: Literal["SIGSEGV", "SIGBUS"]
    code: int
    """si_code."""
    address: int
    """si_addr."""
    sender: int | None
    """The process that sent it, where it was sent."""
    registers: dict[str, int]
    instruction: Instruction | None
    vma: FaultVma | None
    """Where the address lies."""
    neighbours: tuple[Neighbour, ...]
    stack: FaultVma | None
    """The mapping that holds the stack, or held it."""
    goes_to: int | None = None
    """Where the instruction returns, jumps or calls to, where a register or the stack tells it."""
    offset_in_file: int | None = None
    """Of the address, in the file that is mapped there."""
    file_size: int | None = None


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """What it was."""

    cause: FaultCause
    access: Access | None
    address: int


def code_name(signal: str, code: int) -> str:
    """An si_code by its name."""
    if code == KERNEL_CODE:
        return "SI_KERNEL"
    return _SENT.get(code) or (_SEGV if signal == "SIGSEGV" else _BUS).get(code) or str(code)


def judge_crash(facts: CrashFacts) -> Judged:
    """The cause, the access, and the address that was meant."""
    if facts.code <= 0:
        return Judged(cause="sent", access=None, address=facts.address)
    if facts.code == KERNEL_CODE:
        return _not_canonical(facts)
    access = _access(facts)
    return Judged(cause=_cause(facts), access=access, address=facts.address)


def _access(facts: CrashFacts) -> Access | None:
    if facts.registers.get("rip") == facts.address:
        return "exec"
    if facts.instruction is not None:
        found = facts.instruction.access_to(facts.address, facts.registers)
        if found is not None:
            return found.access
    # The instruction could not be read, but only a write is forbidden where reading is allowed.
    if facts.vma is not None and facts.vma.perms.startswith("r-") and facts.code == 2:
        return "write"
    return None


def _cause(facts: CrashFacts) -> FaultCause:
    if facts.signal == "SIGBUS":
        return _bus_cause(facts)
    if _is_stack_overflow(facts):
        return "stack-overflow"
    if facts.code in (2, 4, 10) or facts.vma is not None:
        return "forbidden"
    return "no-vma"


def _bus_cause(facts: CrashFacts) -> FaultCause:
    if facts.code in (4, 5):
        return "hardware"
    if facts.code == 1:
        return "misaligned"
    size, offset = facts.file_size, facts.offset_in_file
    if size is not None and offset is not None and offset >= -(-size // _PAGE) * _PAGE:
        return "end-of-file"
    if facts.code == 2 and facts.vma is not None:
        return "no-memory" if facts.vma.kind in ("hugetlb", "memfd", "shmem") and size is not None else "unknown"
    return "hardware" if facts.code == 3 else "unknown"


def _not_canonical(facts: CrashFacts) -> Judged:
    """A general protection fault has no address: the instruction and the registers tell it."""
    instruction = facts.instruction
    for access in () if instruction is None else instruction.accesses:
        address = access.address(facts.registers, instruction.size if instruction else 0)
        if address is not None and _CANONICAL <= address < (1 << 64) - _CANONICAL:
            return Judged(cause="not-an-address", access=access.access, address=address)
    target = facts.registers.get("rip", 0) if facts.goes_to is None else facts.goes_to
    if _CANONICAL <= target < (1 << 64) - _CANONICAL:
        return Judged(cause="not-an-address", access="exec", address=target)
    return Judged(cause="unknown", access=None, address=facts.address)


def _is_stack_overflow(facts: CrashFacts) -> bool:
    sp = facts.registers.get("rsp")
    if sp is None or facts.registers.get("rip") == facts.address:
        return False
    near = sp - _STACK_REACH <= facts.address < sp + _STACK_REACH
    stack = facts.stack
    if facts.vma is not None:
        # A thread's guard, or glibc's within a mapping: no access at all, right below the stack.
        return near and facts.vma.kind in ("guard", "reserved") and facts.vma.perms.startswith("---")
    if stack is None or stack.kind not in ("stack", "thread stack"):
        return False
    below = stack.start - facts.address
    # Near its lower end in both meanings; or the pointer itself has left the stack.
    left = stack.end - _MOST_STACK < sp < stack.start
    return below > 0 and ((near and below <= _GAP + _STACK_REACH) or (left and near))


def repetition(functions: Sequence[str]) -> Repetition | None:
    """The shortest cycle with which a stack begins, if it repeats at least three times.

    Args:
        functions: innermost first.

    """
    from leakline.model.faults import Repetition

    for skip in range(4):  # what was called last may lie on top
        rest = functions[skip:]
        for length in range(1, min(_LONGEST_CYCLE, len(rest) // 3) + 1):
            times = 1
            while rest[times * length : (times + 1) * length] == rest[:length]:
                times += 1
            if times >= 3 and times * length * 2 > len(rest):
                cycle = list(dict.fromkeys(name for name in rest[:length] if name != "?")) or ["?"]
                # Of a function that was inlined into itself each round holds several.
                of_each = rest[:length].count(cycle[0]) if len(cycle) == 1 else 1
                return Repetition(depth=len(functions), functions=tuple(cycle), times=times * of_each)
    return None


_DID = {"read": "read from", "write": "write to", "exec": "run code at", None: "use"}
_MAY = {"r": "read", "w": "written", "x": "run as code"}


def explain(crash: Crash, judged: Judged, vma: FaultVma | None, where: str, facts: CrashFacts) -> str:
    """Sentences for somebody who meets the word for the first time, that somebody who knows it can trust.

    Args:
        crash: what is known.
        judged: what it was.
        vma: the mapping at the address.
        where: the place in the code.
        facts: from which it was judged.

    """
    sentences = [*_what(crash, judged, vma, where, facts), *_why(crash, judged, vma)]
    if crash.handled:
        sentences.append(f"The program has a handler of its own for this signal, which {ENDED if crash.fatal else GOING_ON}")
    return " ".join(sentence for sentence in sentences if sentence)


def _what(crash: Crash, judged: Judged, vma: FaultVma | None, where: str, facts: CrashFacts) -> list[str]:
    address = f"address {judged.address:#x}"
    if judged.cause == "sent":
        by = "itself" if facts.sender == crash.pid else f"process {facts.sender}" if facts.sender else "another process"
        return [f"{crash.signal} was sent by {by} ({crash.code}): it was no fault of memory."]
    tried = f"The program tried to {_DID[judged.access]} {address}, {where}"
    match judged.cause:
        case "no-vma":
            return [f"{tried}. Nothing is mapped there: no VMA of the process holds it, so the kernel has no page to give."]
        case "forbidden":
            return [f"{tried}. The address lies in {_named(vma)}, {_allowed(vma)}."]
        case "stack-overflow":
            return [
                f"The stack is full. The program tried to {_DID[judged.access]} {address}, below the end of its stack, {where}."
            ]
        case "not-an-address":
            return [
                f"{tried}. That is no address at all: user addresses on x86-64 are below {_CANONICAL:#x}. The processor refuses it"
                " before the kernel is asked (a general protection fault), which is why the signal itself says address 0."
            ]
        case "end-of-file":
            size = "" if facts.file_size is None else f", which has {facts.file_size:,} bytes now"
            return [f"{tried}. It is mapped, but {_behind(facts)} of {_named(vma)}{size}: there is no page of it to give."]
        case "no-memory":
            return [f"{tried}, in {_named(vma)}, and the file system that holds it had no page left to give."]
        case "hardware":
            return [f"{tried}. The page could not be had: a read error of the disk, or memory that is broken."]
        case "misaligned":
            return [f"{tried}. The processor was told to insist on aligned addresses, and this one is not."]
    return [f"{tried}."]


def _behind(facts: CrashFacts) -> str:
    if facts.file_size is None or facts.offset_in_file is None:
        return "beyond the end"
    return f"{facts.offset_in_file - facts.file_size:,} bytes beyond the end"


def _allowed(vma: FaultVma | None) -> str:
    if vma is None:
        return "which does not allow it"
    allowed = [_MAY[letter] for letter in vma.perms[:3] if letter in _MAY]
    return (
        f"which may be {' and '.join(allowed)} only ({vma.perms})" if allowed else f"which may not be touched at all ({vma.perms})"
    )


def _named(vma: FaultVma | None) -> str:
    if vma is None:
        return "a mapping"
    words = {
        "text": "the code",
        "rodata": "the constants",
        "data": "the variables",
        "bss": "the zeroed variables",
        "heap": "the heap",
        "stack": "the stack",
        "thread stack": "a thread's stack",
        "guard": "a guard page",
        "file": "the mapped file",
    }
    name = words.get(vma.kind, f"a mapping of kind {vma.kind}")
    if vma.path is None or vma.path.startswith("["):
        return name
    file = vma.path.removesuffix(" (deleted)").rsplit("/", 1)[-1]
    return f"{name} of {file}" if vma.kind != "file" else f"{name} {file}"


def _why(crash: Crash, judged: Judged, vma: FaultVma | None) -> list[str]:
    if judged.cause == "stack-overflow":
        return _why_full(crash)
    if judged.cause == "no-vma":
        return _why_nothing(crash, judged)
    if judged.cause == "forbidden":
        return _why_forbidden(crash, judged, vma)
    if judged.cause == "end-of-file":
        return [
            "The file was cut short after it was mapped, or the mapping is longer than the file: check the size before touching it."
        ]
    if judged.cause == "not-an-address" and judged.access == "exec":
        return ["The return address on the stack was overwritten, as by writing past a local array; or a function pointer was."]
    if judged.cause == "not-an-address":
        return ["Such a value is often no pointer: bytes of text, a number, or what an allocator wrote into freed memory."]
    if judged.cause == "no-memory":
        return ["`df` shows how full it is; for huge pages HugePages_Free in /proc/meminfo."]
    return []


def _why_full(crash: Crash) -> list[str]:
    found = []
    if crash.stack_limit is not None:
        found.append(f"It may grow to {crash.stack_limit:,} bytes.")
    again = crash.repetition
    if again is not None:
        names = " -> ".join(reversed(again.functions))
        who = f"{names} calls itself" if len(again.functions) == 1 else f"{names} call each other"
        found.append(f"{who} without end: {again.times:,} times on this stack of {again.depth:,} calls.")
    else:
        found.append("Large local arrays or alloca are the usual cause where no function calls itself again and again.")
    return found


def _why_nothing(crash: Crash, judged: Judged) -> list[str]:
    if crash.was is not None:
        size = crash.was.end - crash.was.start
        return [
            f"There was {_named(crash.was)} ({crash.was.perms}, {size:,} bytes at {crash.was.start:#x}), which was unmapped, as"
            " free does with large blocks and dlclose with libraries: a use after munmap."
        ]
    if judged.address < _NULL_PAGE:
        return _why_null(crash, judged)
    if judged.access == "exec":
        return ["It jumped there: by a function pointer that is wrong, or a return address that was overwritten on the stack."]
    found = []
    nearest = min(crash.neighbours, key=lambda n: n.distance, default=None)
    if nearest is not None:
        side = "behind the end" if nearest.side == "below" else "before the start"
        away = f"{nearest.distance:,} bytes {side}" if nearest.distance else f"right {side}"
        if nearest.distance >= _FAR:
            return ["No mapping is anywhere near: the pointer was never right, was overwritten, or is only half of an address."]
        found.append(f"It is {away} of the nearest mapping, {_named(nearest.vma)} ({nearest.vma.perms}).")
        if nearest.distance <= _PAGE and nearest.side == "below":
            found.append("An index that runs past the end of an array or buffer looks like this.")
    return found


def _why_null(crash: Crash, judged: Judged) -> list[str]:
    field = crash.field
    if judged.access == "exec":
        return ["A function pointer that is NULL was called."]
    if field is not None and field.member.startswith("_vptr"):
        return [f"The pointer `{field.pointer}` is NULL, and a virtual function of {field.type} was called through it."]
    if field is not None:
        return [
            f"The pointer `{field.pointer}` is NULL: {field.member} lies {field.offset} bytes into {field.type}, and that is the"
            " address that was reached."
        ]
    if judged.address == 0:
        return ["It is the NULL pointer: what should have been made or found was not, and nobody checked."]
    behind = f"something {judged.address:,} bytes behind it was reached for"
    return [f"A pointer is NULL, and {behind}: a member of a structure, or an index."]


def _why_forbidden(crash: Crash, judged: Judged, vma: FaultVma | None) -> list[str]:
    kind = "" if vma is None else vma.kind
    name = f" (`{crash.symbol}`)" if crash.symbol else ""
    if judged.access == "exec":
        return [f"These are data{name}, and the processor runs no data: pages that can be written are not executable (NX)."]
    if judged.access == "write" and kind == "text":
        return [f"That is the program's own code{name}: a pointer to a function was used as if it pointed to data."]
    if judged.access == "write" and kind == "rodata":
        text = f', here "{crash.text}"' if crash.text else ""
        literal = "a `char *` that points to a literal must not be written through"
        return [f"Constants and string literals{name} stand there{text}: {literal}."]
    if judged.access == "write" and vma is not None and vma.perms[:2] == "r-":
        return ["It was mapped so that it can be read only, or made so by mprotect."]
    if kind == "reserved":
        return ["It is reserved, and not for use yet: past the end of what its owner, often an allocator, has opened up."]
    if kind == "guard":
        return ["A guard page stands at the end of a stack or buffer so that running past the end is noticed."]
    return []


def functions_of(stack: Sequence[Frame]) -> list[str]:
    """The functions on a stack, `?` where one is not known."""
    return [frame.function or "?" for frame in stack]
