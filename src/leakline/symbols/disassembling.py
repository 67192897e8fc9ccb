"""binutils' objdump, in batches: one process for many instructions."""

from __future__ import annotations

import subprocess
import tempfile
from typing import TYPE_CHECKING

from leakline.errors import NotPossible
from leakline.formats.instructions import SLOT, Instruction, parse_disassembly

if TYPE_CHECKING:
    from collections.abc import Sequence

LONGEST = 15
"""Bytes of the longest instruction."""
_NOP = b"\x90"
_COMMAND = ("objdump", "-D", "-b", "binary", "-m", "i386:x86-64", "-M", "intel", "-w", "-z", "--no-show-raw-insn")


def disassemble(codes: Sequence[bytes]) -> list[Instruction | None]:
    """The instruction at the start of each piece of code; None where there is none.

    Raises:
        NotPossible: objdump is missing, or failed.

    """
    if not codes:
        return []
    slots = b"".join(code[:LONGEST].ljust(SLOT, _NOP) for code in codes)
    with tempfile.NamedTemporaryFile(prefix="leakline-") as file:
        file.write(slots)
        file.flush()
        try:
            done = subprocess.run([*_COMMAND, file.name], capture_output=True, text=True, timeout=60, check=False)
        except FileNotFoundError as error:
            raise NotPossible("objdump is not installed", hint="sudo apt-get install binutils") from error
        except subprocess.TimeoutExpired as error:
            raise NotPossible("objdump took more than 60 s") from error
    if done.returncode:
        raise NotPossible(f"objdump failed: {done.stderr.strip() or done.returncode}")
    return parse_disassembly(done.stdout, len(codes))
