"""Lines of kernel frames from debug information, which must be that of the kernel and the modules that run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakline.model.stack import Frame
from leakline.symbols.kernel_lines import KernelLines, build_id_of

_SOURCE = """
static int twice(int n) { return n + n; }
int sink;
__attribute__((noinline)) void called(int n)
{
	sink = n;
}
__attribute__((noinline)) int leaks(int n)
{
	called(n);
	called(twice(n));
	return sink;
}
__attribute__((section(".init.text"), noinline)) int begins(void) { called(1); return sink; }
int main(void) { return leaks(1) + begins(); }
"""
RELEASE = "6.12.0-test"


class Kernel:
    """A made-up installation: a `vmlinux` and a module, with their notes in /sys."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.sys, self.debug = folder, folder / "sys", folder / "usr/lib/debug"
        self.source = folder / "kernel.c"
        self.source.write_text(_SOURCE)

    def install(self, module: str, place: Path, *flags: str) -> Path:
        built = place if place.is_absolute() else self.debug / place
        built.parent.mkdir(parents=True, exist_ok=True)
        if module == "vmlinux":
            subprocess.run(["gcc", "-O1", "-g", "-Wl,--build-id=sha1", *flags, "-o", built, self.source], check=True)
        else:
            middle = self.folder / "module.o"
            subprocess.run(["gcc", "-O1", "-g", "-c", *flags, "-o", middle, self.source], check=True)
            subprocess.run(["ld", "-r", "--build-id=sha1", "-o", built, middle], check=True)
        notes = self.sys / ("kernel/notes" if module == "vmlinux" else f"module/{module}/notes/.note.gnu.build-id")
        notes.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["objcopy", "-O", "binary", "--only-section=.note.gnu.build-id", built, notes], check=True)
        return built

    def frame_of_call(self, built: Path, module: str, number: int) -> Frame:
        """What the kernel would print for the return address of a call in leaks()."""
        code = subprocess.run(["objdump", "-d", "--no-show-raw-insn", built], capture_output=True, text=True, check=True).stdout
        body = code.split("<leaks>:\n")[1].split("\n\n")[0].splitlines()
        start, calls = int(body[0].split(":")[0], 16), [n for n, line in enumerate(body) if "call" in line]
        after = int(body[calls[number] + 1].split(":")[0], 16)
        return Frame(function="leaks", file=None, line=None, module=module, address=None, offset=after - start)

    def lines(self) -> KernelLines:
        return KernelLines(self.sys, RELEASE, self.debug)


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


@pytest.mark.parametrize("place", [f"boot/vmlinux-{RELEASE}", f"lib/modules/{RELEASE}/vmlinux"])
def test_lines_of_the_kernel(kernel: Kernel, place: str) -> None:
    built = kernel.install("vmlinux", Path(place))
    stack = tuple(kernel.frame_of_call(built, "vmlinux", number) for number in (0, 1))
    (found,) = kernel.lines().add_lines([stack]).values()
    assert [(frame.function, frame.line) for frame in found] == [("leaks", 10), ("leaks", 11)]
    assert all(frame.file == str(kernel.source) and frame.address for frame in found)


@pytest.mark.parametrize("place", [f"lib/modules/{RELEASE}/kernel/my-driver.ko.debug", f"lib/modules/{RELEASE}/extra/my_driver.ko"])
def test_lines_of_a_module_whose_code_is_not_at_an_address_yet(kernel: Kernel, place: str) -> None:
    built = kernel.install("my_driver", Path(place))
    frame = kernel.frame_of_call(built, "my_driver", 0)
    (found,) = kernel.lines().add_lines([(frame,)]).values()
    assert [(line.function, line.line, line.module) for line in found] == [("leaks", 10, "my_driver")]


def test_another_build_of_the_same_release_is_not_believed(kernel: Kernel) -> None:
    built = kernel.install("vmlinux", Path(f"boot/vmlinux-{RELEASE}"))
    frame = kernel.frame_of_call(built, "vmlinux", 0)
    kernel.source.write_text(_SOURCE.replace("int sink;", "int sink = 7;"))
    kernel.install("vmlinux", kernel.folder / "elsewhere")  # its notes are those of the kernel that runs
    assert kernel.lines().add_lines([(frame,)]) == {(frame,): (frame,)}


def test_without_debug_information_frames_stay_as_they_are(kernel: Kernel) -> None:
    frame = Frame(function="leaks", file=None, line=None, module="vmlinux", address=None, offset=4)
    assert kernel.lines().add_lines([(frame,), ()]) == {(frame,): (frame,), (): ()}
    built = kernel.install("vmlinux", Path(f"boot/vmlinux-{RELEASE}"), "-g0")
    assert kernel.lines().debug_file("vmlinux") is None
    built.write_bytes(b"\x7fELF of a kind")
    assert kernel.lines().add_lines([(frame,)]) == {(frame,): (frame,)}


@given(st.binary(max_size=80))
def test_notes_of_any_kind(data: bytes) -> None:
    found = build_id_of(data)
    assert found is None or bytes.fromhex(found) in data
