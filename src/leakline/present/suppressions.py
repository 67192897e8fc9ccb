"""Rules that would suppress findings: by fingerprint, and as valgrind has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leakline.model.function_names import plain_name
from leakline.present.text import counted, exact_bytes, place, printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from leakline.model.finding import Finding
    from leakline.model.stack import Frame

_MOST_FRAMES = 23  # of valgrind's 24; one is the allocator's
_OWN_HEAD = "# leakline: the same leak has the same fingerprint in every run and build.\n"
_VALGRIND_HEAD = "# valgrind and leakline: stacks that begin so.\n"


def suppressions_for(findings: Iterable[Finding], *, valgrind: bool) -> str:
    """Rules for these findings, each once.

    Args:
        findings: what was found.
        valgrind: in valgrind's form, of those that have a stack with names; else by fingerprint.

    """
    once = {finding.fingerprint: finding for finding in findings}
    rules = [_valgrind(finding) if valgrind else _own(finding) for finding in once.values()]
    return (_VALGRIND_HEAD if valgrind else _OWN_HEAD) + "".join(rules)


def _where(finding: Finding) -> str:
    name = finding.subject.name if finding.location is None else place(finding.location, finding.stack)
    function = finding.location.function if finding.location is not None else None
    return printable(f"{name} {function}" if function else name)


def _own(finding: Finding) -> str:
    size = f"{exact_bytes(finding.bytes)} in {counted(finding.blocks, 'block')}"
    return f"fingerprint:{finding.fingerprint}  {_where(finding)}, {finding.kind}, {size}\n"


def _valgrind(finding: Finding) -> str:
    # `...` stands for what lies before: allocators and libraries look different in every checker.
    first = next((at for at, frame in enumerate(finding.stack) if frame.location == finding.location), 0)
    frames = [frame for frame in finding.stack[first:] if frame.function is not None or frame.module is not None]
    if finding.kind not in ("definite", "possible", "reachable") or not frames:
        return f"# nothing for {_where(finding)}: without a stack only a fingerprint tells it: fingerprint:{finding.fingerprint}\n"
    lines = ["{", f"   {_where(finding)}", "   Memcheck:Leak", f"   match-leak-kinds: {finding.kind}", "   ..."]
    for frame in frames[:_MOST_FRAMES]:
        lines.append(f"   {_frame(frame)}")
        if frame.function == "main":
            break
    return "\n".join([*lines, "}", ""])


def _frame(frame: Frame) -> str:
    if frame.function is None:
        return f"obj:*/{printable(frame.module or '')}"
    if "(" not in frame.function and "::" not in frame.function:
        return f"fun:{printable(frame.function)}"
    # valgrind compares with C++ names as the linker has them: `A::lose(int)` is _ZN1A4loseEi there.
    parts = [part for part in plain_name(frame.function).split("::") if part.isidentifier() and part != "std"]
    return f"fun:_Z*{'*'.join(f'{len(part)}{part}' for part in parts)}*" if parts else "fun:_Z*"
