"""A scan of a heap of small blocks: standstill as the target sees it, whole time, our memory; against gcore and LeakSanitizer."""

from __future__ import annotations

import json
import mmap
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# MiB of heap, and bytes of each chunk.
HEAPS = ((64, 64), (1024, 64), (1024, 32))
PROGRAM = """
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* The longest time for which this thread did not run, in nanoseconds: whoever writes 0 begins anew. */
static volatile uint64_t *longest;

static void *tick(void *unused)
{
	struct timespec t;
	uint64_t before = 0;
	(void)unused;
	for (;;) {
		clock_gettime(CLOCK_MONOTONIC, &t);
		uint64_t now = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
		if (before && now - before > *longest)
			*longest = now - before;
		before = now;
	}
	return NULL;
}

static void *keep;

int main(int count, char **arguments)
{
	void **list = NULL;
	long chunk = atol(arguments[2]), blocks = atol(arguments[1]) * (1 << 20) / chunk;
	for (long i = 0; i < blocks; i++) {
		void **block = malloc(chunk - 8);
		*block = list;
		list = block;
		if (i % 1000 == 0)
			*(volatile char *)malloc(chunk - 8) = 1;
	}
	keep = list;
	if (count > 3) {
		pthread_t thread;
		int file = open(arguments[3], O_RDWR);
		longest = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
		pthread_create(&thread, NULL, tick, NULL);
	}
	puts("READY");
	fflush(stdout);
	if (count <= 3)
		return 0;
	for (;;)
		pause();
}
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "blocks.c").write_text(PROGRAM)
        compiler = ["cc", "-O1", "-w", "-pthread", folder / "blocks.c", "-o"]
        subprocess.run([*compiler, folder / "blocks"], check=True)
        subprocess.run([*compiler, folder / "blocks-lsan", "-fsanitize=leak"], check=True)
        for size, chunk in HEAPS:
            measure(folder, size, chunk)
            own_check(folder, size, chunk)


def measure(folder: Path, size: int, chunk: int) -> None:
    (folder / "longest").write_bytes(bytes(4096))
    target = subprocess.Popen([folder / "blocks", str(size), str(chunk), folder / "longest"], stdout=subprocess.PIPE)
    what = f"{size} MiB of {chunk}-byte chunks"
    try:
        assert target.stdout is not None
        target.stdout.readline()
        with (folder / "longest").open("r+b") as file, mmap.mmap(file.fileno(), 4096) as longest:
            longest[:8] = bytes(8)
            time.sleep(1)
            print(f"{what}: undisturbed for a second, the target saw {struct.unpack('<Q', longest[:8])[0] / 1e6:.2f} ms")
            for options in (("--confirm", "1"), ("--confirm", "1"), ("--no-stop",)):
                longest[:8] = bytes(8)
                report, took, memory = scan(target.pid, *options)
                seen = struct.unpack("<Q", longest[:8])[0] / 1e6
                blocks = sum(kind["blocks"] for kind in report["summary"].values())
                stood = report["cost"]["target_stopped_ns"] / 1e6
                print(
                    f"{what}, {blocks:,} blocks, {' '.join(options)}: the target saw at most {seen:.2f} ms, "
                    f"{stood:.2f} ms by our own clock; {took:.2f} s in all, our memory {memory / size:.2f} x the heap"
                )
            if shutil.which("gcore"):
                longest[:8] = bytes(8)
                began = time.monotonic()
                subprocess.run(["gcore", "-o", folder / "core", str(target.pid)], capture_output=True, check=False)
                seen = struct.unpack("<Q", longest[:8])[0] / 1e6
                print(f"{what}: with gcore the target saw {seen:.0f} ms; {time.monotonic() - began:.2f} s in all, without a search")
                for core in folder.glob("core*"):
                    core.unlink()
    finally:
        target.kill()
        target.communicate()


def scan(pid: int, *options: str) -> tuple[dict[str, dict[str, dict[str, int]]], float, float]:
    """The report, seconds, and MiB that it took at most."""
    began = time.monotonic()
    command = [sys.executable, "-m", "leakline", "scan", *options, "--json", "-q", str(pid)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        report = json.loads(process.stdout.read())
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return report, time.monotonic() - began, usage.ru_maxrss / 1024


def own_check(folder: Path, size: int, chunk: int) -> None:
    """LeakSanitizer's check at the end of the same program, built with it: from READY to its end."""
    with subprocess.Popen(
        [folder / "blocks-lsan", str(size), str(chunk)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as program:
        assert program.stdout is not None
        program.stdout.readline()
        began = time.monotonic()
        program.wait()
        took = time.monotonic() - began
    print(f"{size} MiB of {chunk}-byte chunks: LeakSanitizer's own check at the end takes {took:.2f} s")


main()
