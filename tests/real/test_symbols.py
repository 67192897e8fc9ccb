"""Lines from wherever the debug information lies."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from leakline.formats.elf import Elf
from leakline.session.symbolising import resolver_for
from leakline.sources.procfs import ProcFs
from leakline.symbols import debug_files
from tests.conftest import Build, Start


def address_of(pid: int, program: Path, function: str, *, symbols: Path | None = None) -> int:
    """Where a function of a running program begins; `symbols` is a file that knows, if the program itself is stripped."""
    vma = next(v for v in ProcFs().maps(pid) if v.path == str(program))
    with Elf.open(str(symbols or program), "program") as elf:
        bias = elf.load_bias(vma.start, vma.offset)
        symbol = elf.symbols().named(function)
    assert bias is not None
    assert symbol is not None
    return bias + symbol.address


@pytest.mark.parametrize("flags", [("-g", "-O0", "-pie"), ("-g", "-O0", "-no-pie"), ("-g3", "-gz", "-O0")])
def test_a_program_with_lines_of_its_own(build: Build, start: Start, flags: tuple[str, ...]) -> None:
    path = build("loses.c", *flags)
    program = start(path)
    address = address_of(program.pid, path, "lose")
    (frame,) = resolver_for(ProcFs(), program.pid).frames([address], returns=False)[address]
    assert (frame.function, Path(frame.file or "").name, frame.module) == ("lose", "loses.c", path.name)
    assert frame.line is not None


def test_a_return_address_belongs_to_the_call_before_it(build: Build, start: Start) -> None:
    path = build("loses.c")
    program = start(path)
    first = address_of(program.pid, path, "main")
    frames = resolver_for(ProcFs(), program.pid).frames([first])[first]
    assert frames[0].function != "main", "the byte before main's first belongs to another function"


def split(path: Path, folder: Path, *, link: bool) -> tuple[Path, Path]:
    program, debug = folder / "program", folder / "program.debug"
    shutil.copy(path, program)
    subprocess.run(["objcopy", "--only-keep-debug", program, debug], check=True)
    subprocess.run(["strip", program], check=True)
    if link:
        subprocess.run(["objcopy", f"--add-gnu-debuglink={debug}", program], check=True)
    return program, debug


def test_a_debuglink_is_followed_and_its_checksum_kept(build: Build, start: Start, tmp_path: Path) -> None:
    whole = build("loses.c", "-g", "-O0", "-Wl,--build-id=none")
    program, debug = split(whole, tmp_path, link=True)
    running = start(program)
    address = address_of(running.pid, program, "lose", symbols=whole)
    (frame,) = resolver_for(ProcFs(), running.pid).frames([address], returns=False)[address]
    assert (frame.function, Path(frame.file or "").name) == ("lose", "loses.c")
    with debug.open("ab") as file:
        file.write(b"\0")
    (frame,) = resolver_for(ProcFs(), running.pid).frames([address], returns=False)[address]
    assert frame.line is None, "a debug file of another build gives wrong lines: better none"


def test_a_build_id_is_followed(build: Build, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = build("loses.c", "-g", "-O0")
    program, debug = split(whole, tmp_path, link=False)
    with Elf.open(str(program), "program") as elf:
        build_id = elf.build_id
    assert build_id is not None
    home = tmp_path / "debug/.build-id" / build_id[:2]
    home.mkdir(parents=True)
    debug.rename(home / f"{build_id[2:]}.debug")
    monkeypatch.setattr(debug_files, "DEBUG_ROOT", tmp_path / "debug")
    running = start(program)
    address = address_of(running.pid, program, "lose", symbols=whole)
    (frame,) = resolver_for(ProcFs(), running.pid).frames([address], returns=False)[address]
    assert (frame.function, frame.line is not None) == ("lose", True)


def test_a_stripped_program_has_module_and_build_id(build: Build, start: Start) -> None:
    path = build("loses.c", "-O0", "-s")
    running = start(path)
    text = next(v for v in ProcFs().maps(running.pid) if v.path == str(path) and "x" in v.perms)
    (frame,) = resolver_for(ProcFs(), running.pid).frames([text.start + 64], returns=False)[text.start + 64]
    assert (frame.function, frame.line, frame.module) == (None, None, path.name)
    assert frame.build_id is not None


def test_an_address_of_nobody(build: Build, start: Start) -> None:
    running = start(build("loses.c"))
    (frame,) = resolver_for(ProcFs(), running.pid).frames([0x1000])[0x1000]
    assert (frame.function, frame.module, frame.address) == (None, None, 0x1000)
