"""binutils' addr2line, in batches: one process per module and call."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

from leakline.errors import NotPossible
from leakline.model.stack import SourceLocation

_TIMEOUT_SECONDS = 60


def source_lines(path: bytes, addresses: Sequence[int], section: str | None = None) -> list[list[SourceLocation]]:
    """For each ELF virtual address the functions there, innermost inlined one first; an empty list where nothing is known.

    Args:
        path: the file.
        addresses: in its own terms.
        section: what they are relative to, in a relocatable file.

    Raises:
        NotPossible: addr2line is missing, or failed.

    """
    if not addresses:
        return []
    query = "".join(f"{address:#x}\n" for address in addresses).encode()
    command = [b"addr2line", b"--addresses", b"--functions", b"--inlines", b"--demangle", b"--exe=" + path]
    if section is not None:
        command.append(b"--section=" + os.fsencode(section))
    try:
        done = subprocess.run(command, input=query, capture_output=True, timeout=_TIMEOUT_SECONDS, check=False)
    except FileNotFoundError as error:
        raise NotPossible("addr2line is not installed", hint="sudo apt-get install binutils") from error
    except subprocess.TimeoutExpired as error:
        raise NotPossible(f"addr2line took more than {_TIMEOUT_SECONDS} s over {os.fsdecode(path)}") from error
    if done.returncode:
        why = done.stderr.decode(errors="backslashreplace").strip()
        raise NotPossible(f"addr2line failed: {why or done.returncode}")
    return parse_addr2line(done.stdout, len(addresses))


def parse_addr2line(output: bytes, count: int) -> list[list[SourceLocation]]:
    """Addr2line's answers: after each address, pairs of lines: a function, and `file:line`."""
    answers: list[list[SourceLocation]] = []
    lines = output.decode("utf-8", "backslashreplace").split("\n")
    index = 0
    while index < len(lines):
        if lines[index].startswith("0x"):
            answers.append([])
            index += 1
        elif answers and index + 1 < len(lines):
            location = _location(lines[index], lines[index + 1])
            if location is not None:
                answers[-1].append(location)
            index += 2
        else:
            index += 1
    answers = [_without_a_wrong_name(answer) for answer in answers]
    return answers[:count] + [[] for _ in range(count - len(answers))]


def _without_a_wrong_name(answer: list[SourceLocation]) -> list[SourceLocation]:
    """An inlined C++ function without a linkage name gets the name of the one around it (binutils 2.40): none is better."""
    if len(answer) < 2 or answer[0].function != answer[-1].function:
        return answer
    return [SourceLocation(function=None, file=answer[0].file, line=answer[0].line), *answer[1:]]


def _location(function: str, place: str) -> SourceLocation | None:
    file, _, number = place.partition(" (discriminator")[0].rpartition(":")
    line = int(number) if number.isascii() and number.isdigit() else 0
    known = file not in ("", "??")
    if function == "??" and not known:
        return None
    return SourceLocation(
        function=None if function == "??" else function,
        file=file if known else None,
        line=line if known and line else None,
    )
