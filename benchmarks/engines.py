"""What each engine costs one program that does little but allocate: CPU against bare, memory, time around it; what it found."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

ROUNDS = 5
OURS = [sys.executable, "-m", "leakline"]
LOST = 100
PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
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
ALONE void lose(void)
{
	char *volatile block = malloc(1000);
	*block = 1;
	block = NULL;
}
static double cpu(void)
{
	struct rusage usage;
	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}
int main(int n, char **arguments)
{
	long count = atol(arguments[1]), lost = atol(arguments[2]);
	struct rusage usage;
	for (long i = 0; i < lost / 2; i++)
		lose();
	puts("READY");
	fflush(stdout);
	getchar();
	double before = cpu();
	for (long i = 0; i < count; i++) {
		f1();
		if (i % (count / (lost - lost / 2)) == 0)
			lose();
	}
	double after = cpu();
	getrusage(RUSAGE_SELF, &usage);
	printf("%f %ld\n", after - before, usage.ru_maxrss);
	fflush(stdout);
	getchar();
	return 0;
}
"""


class Outcome(NamedTuple):
    """One run."""

    nanoseconds: float
    """CPU of the target for each pair of malloc and free."""
    mebibytes: float
    seconds: float
    """Around the loop: start, check and report."""
    found: str
    stopped_ms: float | None = None


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "loads.c").write_text(PROGRAM)
        for program, flags in (("plain", []), ("asan", ["-fsanitize=address"])):
            subprocess.run(["gcc", "-g", "-O2", "-w", *flags, "-o", folder / program, folder / "loads.c"], check=True)
        engines = {
            "bare": lambda: bare(folder, 10_000_000),
            "agent": lambda: launched(folder, "agent", 10_000_000),
            "lsan": lambda: launched(folder, "lsan", 5_000_000),
            "asan": lambda: launched(folder, "asan", 1_000_000),
            "valgrind": lambda: launched(folder, "valgrind", 500_000),
            "scan": lambda: beside(folder, 60_000_000, "scan"),
            "trace, breakpoints": lambda: beside(folder, 10_000_000, "trace", "--via", "breakpoint", "-d", "1h"),
            "trace, BPF": lambda: beside(folder, 500_000, "trace", "--via", "bpf", "-d", "1h"),
        }
        outcomes: dict[str, list[Outcome]] = defaultdict(list)
        for _ in range(ROUNDS):
            for engine, measure in engines.items():
                outcomes[engine].append(measure())
        report(outcomes)


def report(outcomes: dict[str, list[Outcome]]) -> None:
    for engine, runs in outcomes.items():
        ratios = [run.nanoseconds / plain.nanoseconds for run, plain in zip(runs, outcomes["bare"], strict=True)]
        stopped = [run.stopped_ms for run in runs if run.stopped_ms is not None]
        print(
            f"{engine}: {statistics.median(ratios):.2f} times the CPU (best {min(ratios):.2f}), "
            f"{statistics.median(run.nanoseconds for run in runs):.0f} ns a pair, "
            f"{statistics.median(run.mebibytes for run in runs):.0f} MiB, "
            f"{statistics.median(run.seconds for run in runs):.2f} s around it, found {runs[-1].found}"
            + (f", stood still for {statistics.median(stopped):.1f} ms" if stopped else ""),
            flush=True,
        )


def loop(program: subprocess.Popen[str], count: int) -> tuple[float, float]:
    """Let it run its loop: CPU nanoseconds a pair, and most memory in MiB."""
    assert program.stdin is not None
    assert program.stdout is not None
    program.stdin.write("\n")
    program.stdin.flush()
    seconds, kibibytes = program.stdout.readline().split()
    return float(seconds) / count * 1e9, int(kibibytes) / 1024


def started(*command: str | Path) -> subprocess.Popen[str]:
    program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert program.stdout is not None
    if program.stdout.readline() != "READY\n":
        sys.exit(program.communicate()[1])
    return program


def bare(folder: Path, count: int) -> Outcome:
    began = time.monotonic()
    program = started(folder / "plain", str(count), str(LOST))
    ready = time.monotonic()
    measured = loop(program, count)
    done = time.monotonic()
    program.communicate("\n")
    return Outcome(*measured, ready - began + time.monotonic() - done, "-")


def launched(folder: Path, engine: str, count: int) -> Outcome:
    """Under `leakline run`."""
    path = folder / f"{engine}.json"
    options = ["--engine", engine, "-q", "-f", "-o", path]
    began = time.monotonic()
    program = started(*OURS, "run", *options, "--", folder / ("asan" if engine == "asan" else "plain"), str(count), str(LOST))
    ready = time.monotonic()
    measured = loop(program, count)
    done = time.monotonic()
    program.communicate("\n")
    return Outcome(*measured, ready - began + time.monotonic() - done, found_in(json.loads(path.read_text())))


def beside(folder: Path, count: int, command: str, *options: str) -> Outcome:
    """While `leakline scan` or `trace` looks at it from outside."""
    path = folder / "outside.json"
    program = started(folder / "plain", str(count), str(LOST))
    began = time.monotonic()
    looker = subprocess.Popen(
        [*OURS, command, str(program.pid), *options, "-f", "-o", path], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    assert looker.stderr is not None
    said = []
    if command == "trace":
        for line in looker.stderr:
            said.append(line)
            if "recording" in line:
                break
    measured = loop(program, count)
    done = time.monotonic()
    if command == "trace":
        looker.send_signal(signal.SIGINT)
    said.append(looker.communicate()[1])
    if looker.returncode:
        sys.exit("".join(said))
    took = time.monotonic() - (done if command == "trace" else began)
    program.communicate("\n")
    seen = json.loads(path.read_text())
    return Outcome(*measured, took, found_in(seen), seen["cost"]["target_stopped_ns"] / 1e6)


def found_in(report: dict[str, Any]) -> str:
    """How many of the lost blocks, how sure, and the lines."""
    findings = report["findings"]
    blocks = {kind: sum(one["blocks"] for one in findings if one["kind"] == kind) for kind in ("definite", "possible")}
    places = {
        f"{os.path.basename(one['location']['file'] or '?')}:{one['location']['line']}" for one in findings if one["location"]
    }
    return f"{blocks['definite']} definite, {blocks['possible']} possible at {', '.join(sorted(places)) or 'no line'}"


main()
