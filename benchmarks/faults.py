"""What watching page faults costs the target: CPU time with it against without, and how many faults were lost."""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PAIRS = 5
FAULTS = 100_000
PROGRAM = """
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
enum { PAGE = 4096, PAGES = 4096 };
static volatile unsigned long sum;
__attribute__((noinline)) static void work(long rounds) { for (long i = 0; i < rounds; i++) sum += i * i; }
__attribute__((noinline)) static void touch(char *page) { *page = 1; }
__attribute__((noinline)) static void one(char *page, long rounds) { touch(page); work(rounds); __asm__ volatile(""); }
static double now(void) { struct timespec t; clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t); return t.tv_sec + t.tv_nsec / 1e9; }
int main(int n, char **arguments)
{
	long count = atol(arguments[1]), rounds = atol(arguments[2]);
	int keep = n > 3;
	char line[8];
	char *room = mmap(0, (size_t)PAGES * PAGE, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	madvise(room, (size_t)PAGES * PAGE, MADV_NOHUGEPAGE);
	puts("READY");
	fflush(stdout);
	(void)!fgets(line, sizeof line, stdin);
	double began = now();
	for (long i = 0; i < count; i++) {
		if (keep) { /* 100 MB/s are 25,600 pages a second */
			char *block = malloc(PAGE - 16);
			one(block, rounds);
		} else {
			if (i % PAGES == 0)
				madvise(room, (size_t)PAGES * PAGE, MADV_DONTNEED);
			one(room + i % PAGES * PAGE, rounds);
		}
	}
	printf("%f\\n", now() - began);
	fflush(stdout);
	(void)!fgets(line, sizeof line, stdin);
}
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        source, program = Path(name) / "touches.c", str(Path(name) / "touches")
        source.write_text(PROGRAM)
        subprocess.run(["cc", "-g", "-O2", "-w", "-o", program, str(source)], check=True)
        storm, leak = [program, str(FAULTS), str(rounds(program, 10e-6))], [program, "40000", str(rounds(program, 39e-6)), "keep"]
        watch = ["faults", "--json", "-q"]
        compare("100,000 faults a second, every one with its stack", storm, [*watch, "--sites"])
        compare("the same, --every 13", storm, [*watch, "--sites", "--every", "13"])
        compare("the same, --by cause: no stacks", storm, [*watch, "--by", "cause"])
        compare("leaking 100 MB a second, trace --via faults", leak, ["trace", "--via", "faults", "-d", "1h", "--json", "-q"])


def rounds(program: str, seconds: float) -> int:
    """So much work that a fault with it takes so long."""
    few, many = (min(measure([program, "20000", count], None)[0] for _ in range(3)) / 20000 for count in ("0", "2000"))
    return max(0, round((seconds - few) / (many - few) * 2000))


def compare(name: str, command: list[str], watch: list[str]) -> None:
    """Interleaved pairs, as other loads on the machine come and go."""
    ratios, times, lost = [], [], []
    for _ in range(PAIRS):
        bare, _ = measure(command, None)
        watched, share = measure(command, watch)
        ratios.append(watched / bare)
        times.append(bare)
        lost.append(share)
    rate = int(command[1]) / statistics.median(times)
    print(
        f"{name}: {statistics.median(ratios):.2f} times the CPU (best {min(ratios):.2f}) at {rate:,.0f} faults a second; "
        f"{statistics.median(lost):.0%} of them lost",
        flush=True,
    )


def measure(command: list[str], watch: list[str] | None) -> tuple[float, float]:
    """CPU seconds of the target, and the share of its faults that had no room."""
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as target:
        assert target.stdin is not None
        assert target.stdout is not None
        target.stdout.readline()
        watcher = None
        if watch is not None:
            line = [sys.executable, "-m", "leakline", watch[0], str(target.pid), *watch[1:]]
            watcher = subprocess.Popen(line, stdout=-1, text=True)
            await_events(watcher.pid)
        target.stdin.write("\n")
        target.stdin.flush()
        seconds = float(target.stdout.readline())
        share = 0.0
        if watcher is not None:
            watcher.send_signal(signal.SIGINT)
            report = json.loads(watcher.communicate()[0])
            if "lost" in report:
                share = report["lost"] / max(report["seen"]["minor"], 1)
        target.stdin.write("\n")
    return seconds, share


def await_events(pid: int) -> None:
    """Until it has perf buffers mapped."""
    while "[perf_event]" not in (maps := Path(f"/proc/{pid}/maps").read_text()):
        if not maps:
            sys.exit("the watcher ended")
        time.sleep(0.01)
    time.sleep(0.3)  # it reads the target's mappings and pages next


main()
