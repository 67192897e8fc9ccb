"""What works here: each mechanism is tried, not guessed from versions."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Self

from leakline.errors import LeaklineError
from leakline.formats.elf import Elf
from leakline.model.capability import Capability
from leakline.native.parts import AGENT, BPF, HEAP, part_path
from leakline.sources.bpf import HeapRecorder
from leakline.sources.breakpoints import Breakpoints
from leakline.sources.fault_events import FaultEvents, FaultOptions
from leakline.sources.kernel_files import KernelFiles, kmemleak_is_on
from leakline.sources.kmem_events import require_tracepoints
from leakline.sources.ptrace import stopped
from leakline.sources.remote_memory import PageMap, RemoteMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from leakline.sources.procfs import ProcFs

_SCAN = ("scan", "diagnose")
_TRACE = ("trace", "diagnose")


def _capability(name: str, used_by: tuple[str, ...], attempt: Callable[[], str], remedy: str | None = None) -> Capability:
    """Try something that raises when it does not work and returns what was found when it does."""
    try:
        return Capability(name=name, works=True, detail=attempt(), remedy=None, used_by=used_by)
    except LeaklineError as error:
        return Capability(name=name, works=False, detail=error.message, remedy=remedy or error.hint, used_by=used_by)
    except OSError as error:
        return Capability(name=name, works=False, detail=error.strerror or str(error), remedy=remedy, used_by=used_by)


class _Subject:
    """The process to try things on: the user's target, or a child of our own that waits."""

    def __init__(self, target: int | None) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        if target is None:
            self._child = subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        self.pid = target if target is not None else self._child.pid if self._child else 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()


def examine(procfs: ProcFs, target: int | None = None) -> tuple[Capability, ...]:
    """Try everything, on the target if there is one.

    Raises:
        TargetGone: there is no such target.

    """
    if target is not None:
        procfs.stat(target)
    with _Subject(target) as subject:
        return tuple(_all(procfs, subject.pid, own=target is None))


def _all(procfs: ProcFs, pid: int, *, own: bool) -> Iterator[Capability]:
    def native(name: str) -> Callable[[], str]:
        return lambda: str(part_path(name).name)

    yield _capability("heap walker", _SCAN, native(HEAP))
    yield _capability("agent", ("run",), native(AGENT))
    yield _capability("BPF programs", ("trace",), native(BPF))

    def read_smaps() -> str:
        return f"{procfs.usage(pid).rss >> 10:,} KiB resident"

    def stop() -> str:
        if not own:
            # To try it on somebody's program would stop it; the same right opens its memory.
            os.close(os.open(procfs.root / str(pid) / "mem", os.O_RDONLY))
            return "allowed (not tried: it would stop the target)"
        with stopped(procfs, pid, 1.0) as process:
            count = len(process.threads)
        return f"stopped and released {count} thread"

    def copy() -> str:
        vma = next(v for v in procfs.maps(pid) if "r" in v.perms and v.is_file)
        size = len(RemoteMemory(procfs.root, pid).read(vma.start, 64))
        if not size:
            raise OSError(1, "Operation not permitted")
        return "read from the process"

    def pagemap() -> str:
        with PageMap(procfs.root, pid) as pages:
            runs = pages.own_runs(procfs.maps(pid))
        return f"{sum(end - start for start, end in runs) >> 10:,} KiB of its own"

    as_root = "Run as root or as the owner of the process; or grant CAP_SYS_PTRACE."
    yield _capability("smaps", _SCAN, read_smaps, as_root)
    yield _capability("ptrace", _SCAN, stop, f"{as_root} kernel.yama.ptrace_scope=1 allows it on children only.")
    yield _capability("process_vm_readv", _SCAN, copy, as_root)
    yield _capability("pagemap", _SCAN, pagemap, as_root)

    def breakpoints() -> str:
        address = next(v.start for v in procfs.maps(pid) if "x" in v.perms)
        with Breakpoints(pid, procfs.threads(pid)[:1], [address]):
            return "allowed, by perf_event_open"

    yield _capability("hardware breakpoints", _TRACE, breakpoints)

    def faults() -> str:
        with FaultEvents(pid, lambda: procfs.threads(pid)[:1], FaultOptions()) as events:
            kernel = "those made by the kernel for it too" if events.sees_kernel else "not those made by the kernel for it"
            return f"allowed, by perf_event_open; {kernel}; {'with' if events.sees_codes else 'without'} error codes"

    yield _capability("page faults", ("faults", "trace --via faults"), faults)

    def bpf() -> str:
        HeapRecorder().close()
        return "loaded the programs"

    yield _capability("BPF", _TRACE, bpf)

    yield from _kernel_files()
    yield from _tools()
    if not own:
        yield _capability("debug symbols", ("trace", "diagnose"), lambda: _lines_of(procfs, pid))


def _kernel_files() -> Iterator[Capability]:
    def first_line(path: str) -> Callable[[], str]:
        def attempt() -> str:
            with open(path, "rb") as file:
                file.readline()
            return path

        return attempt

    def tracefs() -> str:
        if not Path("/sys/kernel/tracing/events").is_dir():
            raise OSError(2, "not mounted, or not readable")
        return "/sys/kernel/tracing"

    def slab_traces() -> str:
        with KernelFiles("debugfs") as files:
            caches = files.names("slab")
        if not caches:
            raise OSError(2, "no cache keeps who allocated its objects")
        return f"kept for {len(caches)} caches"

    def tracepoints() -> str:
        require_tracepoints()
        return "kmem:kmalloc, by perf_event_open"

    def page_owner() -> str:
        with KernelFiles("debugfs") as files:
            for name in ("page_owner_stacks/show_stacks", "page_owner"):
                if files.exists(name) and next(files.pieces(name), b""):
                    return f"debugfs has {name}"
        raise OSError(2, "not built in, or not on")

    def kmemleak() -> str:
        with KernelFiles("debugfs") as files:
            if not files.exists("kmemleak"):
                raise OSError(2, "debugfs has no kmemleak")
            if not kmemleak_is_on(files):
                raise OSError(2, "built in, but off")
        return "on"

    uses = ("kernel --locate",)
    first = "" if os.geteuid() == 0 else "Run as root. Where that does not do: "
    config = f"{first}Linux 6.10 with CONFIG_MEM_ALLOC_PROFILING, and sysctl.vm.mem_profiling=1 at boot"
    yield _capability("allocinfo", uses, first_line("/proc/allocinfo"), config)
    config = f"{first}boot with page_owner=on; the kernel needs CONFIG_PAGE_OWNER"
    yield _capability("page_owner", uses, page_owner, config)
    config = f"{first}boot with slub_debug=U; the kernel needs CONFIG_SLUB_DEBUG and CONFIG_DEBUG_FS"
    yield _capability("slab traces", uses, slab_traces, config)
    config = f"{first}boot with kmemleak=on; the kernel needs CONFIG_DEBUG_KMEMLEAK"
    yield _capability("kmemleak", uses, kmemleak, config)
    config = f"{first}the kernel needs CONFIG_TRACEPOINTS and CONFIG_PERF_EVENTS"
    yield _capability("tracepoints", uses, tracepoints, config)


def _tools() -> Iterator[Capability]:
    def version_of(command: str) -> Callable[[], str]:
        def attempt() -> str:
            if shutil.which(command) is None:
                raise OSError(2, "not installed")
            done = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=10, check=False)
            return done.stdout.partition("\n")[0]

        return attempt

    def asan() -> str:
        if shutil.which("gcc") is None:
            raise OSError(2, "gcc is not installed")
        done = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, timeout=10, check=False)
        path = Path(done.stdout.strip())
        if not path.is_absolute():
            raise OSError(2, "gcc has no libasan.so")
        return str(path.resolve())

    yield _capability("addr2line", ("trace", "diagnose"), version_of("addr2line"), "sudo apt-get install binutils")
    yield _capability("valgrind", ("run --engine valgrind",), version_of("valgrind"), "sudo apt-get install valgrind")
    yield _capability("AddressSanitizer", ("run --engine asan",), asan, "sudo apt-get install gcc libgcc-12-dev")


def _lines_of(procfs: ProcFs, pid: int) -> str:
    with Elf.open(bytes(procfs.root / str(pid) / "exe"), f"the program of process {pid}") as elf:
        if elf.has_lines():
            return "the program carries its own"
        found = elf.build_id or "none"
    raise LeaklineError(
        f"the program has no line table; its build-id is {found}",
        hint="Install its debug package (Debian: NAME-dbgsym), or build it with -g. Until then: function and offset.",
    )


def host() -> tuple[str, str]:
    """Kernel release and machine."""
    return platform.release(), platform.machine()
