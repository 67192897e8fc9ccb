"""A scan of a heap of 64-byte blocks: standstill, whole time and our memory, against gcore's stop of the same process."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZES_MIB = (64, 512)
PROGRAM = """
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(int count, char **arguments)
{
	void **list = NULL;
	long blocks = atol(arguments[1]) * (1 << 20) / 64;
	for (long i = 0; i < blocks; i++) {
		void **block = malloc(56);
		*block = list;
		list = block;
		if (i % 1000 == 0)
			*(char *)malloc(56) = 1;
	}
	static void *keep;
	keep = list;
	puts("READY");
	fflush(stdout);
	for (;;)
		pause();
}
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "blocks.c").write_text(PROGRAM)
        subprocess.run(["cc", "-O1", "-w", "-o", folder / "blocks", folder / "blocks.c"], check=True)
        for size in SIZES_MIB:
            measure(folder, size)


def measure(folder: Path, size: int) -> None:
    target = subprocess.Popen([folder / "blocks", str(size)], stdout=subprocess.PIPE)
    try:
        if target.stdout is not None:
            target.stdout.readline()
        command = [sys.executable, "-m", "leakline", "scan", "--confirm", "1", "--json", "-q", str(target.pid)]
        began = time.monotonic()
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        took = time.monotonic() - began
        report = json.loads(done.stdout)
        memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        stopped = report["cost"]["target_stopped_ns"] / 1e6
        blocks = sum(kind["blocks"] for kind in report["summary"].values())
        print(
            f"{size} MiB, {blocks:,} blocks: stood still {stopped:.0f} ms, {took:.2f} s in all, "
            f"our memory at most {memory:.0f} MiB, {report['summary']['definite']['blocks']:,} lost"
        )
        if shutil.which("gcore"):
            began = time.monotonic()
            subprocess.run(["gcore", "-o", folder / "core", str(target.pid)], capture_output=True, check=False)
            print(f"{size} MiB: gcore holds it for about {(time.monotonic() - began) * 1000:.0f} ms")
            for core in folder.glob("core*"):
                core.unlink()
    finally:
        target.kill()
        target.communicate()


main()
