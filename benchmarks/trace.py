"""What recording by BPF costs the target: CPU of a loop of malloc and free, each way of recording in turn, and bcc's memleak."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from pathlib import Path

from leakline.session.process_allocator import find_allocator
from leakline.sources.bpf import EVERYTHING, HeapRecorder, RecordingOptions
from leakline.sources.procfs import ProcFs

ROUNDS, PAIRS, PAIRS_UNDER_MEMLEAK = 7, 200_000, 50_000
PROGRAM = """
#include <stdio.h>
#include <stdlib.h>
#define ALONE __attribute__((noinline, noclone))
#define STAY __asm__ volatile("")
static void *slots[4096];
static unsigned seed = 1;
ALONE void f5(void)
{
	seed = seed * 1103515245 + 12345;
	unsigned slot = seed >> 16 & 4095;
	free(slots[slot]);
	slots[slot] = malloc(16 + (seed >> 8) % 496);
	*(char *)slots[slot] = 1;
}
ALONE void f4(void) { f5(); STAY; }
ALONE void f3(void) { f4(); STAY; }
ALONE void f2(void) { f3(); STAY; }
ALONE void f1(void) { f2(); STAY; }
int main(int n, char **arguments)
{
	for (int i = 0; i < 1000; i++)
		f1();
	puts("READY");
	fflush(stdout);
	getchar();
	for (long i = 0; i < atol(arguments[1]); i++)
		f1();
	return 0;
}
"""
MODES = {
    "caller only": RecordingOptions(stacks="caller"),
    "frame pointers": RecordingOptions(stacks="frame-pointers"),
    "copied stack": EVERYTHING,
    "sampled, 512 KiB": RecordingOptions(sampled_bytes=512 << 10),
}


class PeerFailed(Exception):
    """memleak-bpfcc does not run here: it compiles against kernel headers, which BCC_KERNEL_SOURCE names."""


@contextmanager
def ours(pid: int, options: RecordingOptions):  # noqa: ANN201
    allocator, recorder = find_allocator(ProcFs(), pid), HeapRecorder()
    try:
        recorder.attach(pid, allocator.path, allocator.functions, allocator.code, options)
        yield
    finally:
        recorder.close()


@contextmanager
def memleak(pid: int):  # noqa: ANN201
    peer = subprocess.Popen(["memleak-bpfcc", "-p", str(pid), "1"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert peer.stdout is not None
    # It says that it attaches before it compiles and does; its first report comes a second after.
    while "outstanding" not in (line := peer.stdout.readline()):
        if not line:
            peer.communicate()
            raise PeerFailed
    threading.Thread(target=peer.stdout.read, daemon=True).start()
    try:
        yield
    finally:
        peer.kill()
        peer.communicate()


def seconds(program: Path, pairs: int, recording: Callable[[int], object] | None) -> float:
    """CPU of the loop, user and system, as the kernel charges it to the program."""
    target = subprocess.Popen([program, str(pairs)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert target.stdin is not None
    assert target.stdout is not None
    target.stdout.readline()
    with ExitStack() as stack:
        stack.callback(target.kill)
        if recording is not None:
            stack.enter_context(recording(target.pid))  # type: ignore[arg-type]
        target.stdin.write(b"\n")
        target.stdin.flush()
        _, _, usage = os.wait4(target.pid, 0)
        target.returncode = 0
    target.stdin.close()
    target.stdout.close()
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        program = Path(name) / "pairs"
        subprocess.run(
            ["cc", "-O2", "-fno-omit-frame-pointer", "-xc", "-", "-o", str(program)], input=PROGRAM, text=True, check=True
        )
        table: dict[str, list[float]] = {mode: [] for mode in MODES}
        peer: list[float] | None = [] if shutil.which("memleak-bpfcc") else None
        for number in range(ROUNDS):
            bare = seconds(program, PAIRS, None)
            for mode, options in MODES.items():
                with_it = seconds(program, PAIRS, lambda pid, o=options: ours(pid, o))  # type: ignore[misc]
                table[mode].append((with_it - bare) / PAIRS * 1e6)
            if peer is not None and number < 3:
                bare = seconds(program, PAIRS_UNDER_MEMLEAK, None)
                try:
                    peer.append((seconds(program, PAIRS_UNDER_MEMLEAK, memleak) - bare) / PAIRS_UNDER_MEMLEAK * 1e6)
                except PeerFailed as error:
                    print(error.__doc__)
                    peer = None
        recorder = HeapRecorder()
        print(f"recording by BPF ({recorder.probes}), microseconds of CPU a pair of malloc and free: median (least and most)")
        recorder.close()
        for mode, costs in [*table.items(), ("memleak-bpfcc", peer or [])]:
            if costs:
                print(f"  {mode}: {statistics.median(costs):.2f} ({min(costs):.2f} to {max(costs):.2f})")


main()
