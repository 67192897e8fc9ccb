"""A real kernel to test against: user-mode Linux, whose root is this machine's file system, read only."""

from __future__ import annotations

import json
import lzma
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parents[1] / "uml"
ROOT = Path(__file__).parents[2]
_TIMEOUT_SECONDS = 400
_INIT = """#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/ PYTHONDONTWRITEBYTECODE=1
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t debugfs d /sys/kernel/debug
mount -t hostfs -o {folder}/out none /mnt; mount -t tmpfs tmp /run; export TMPDIR=/run
busybox insmod /mnt/leakdrv.ko || echo NO-DRIVER
driver() {{ echo "$*" > /sys/kernel/debug/leakdrv/cmd; }}
run() {{ name=$1; shift; {python} -m leakline "$@" > /mnt/$name.out 2> /mnt/$name.err; echo $? > /mnt/$name.status; }}
{script}
busybox poweroff -f
"""


class Guest:
    """A folder with the kernel and the driver.

    Args:
        folder: LEAKLINE_UML_DIR, or what `make test-kernel` has built.
        work: where to put what it needs and says.

    """

    def __init__(self, folder: Path, work: Path) -> None:
        self._work = work
        self.linux = work / "linux"
        if (folder / "linux").exists():
            shutil.copy(folder / "linux", self.linux)
        else:
            self.linux.write_bytes(lzma.decompress((folder / "linux.xz").read_bytes()))
        self.linux.chmod(0o755)
        self._driver = folder / "leakdrv.ko"
        source = folder / "leakdrv.c"
        self.source = source.read_text().splitlines() if source.exists() else None
        """Of the driver, where it lies beside it."""
        self._xstate = work / "xstate.so"
        subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", str(self._xstate), str(HERE / "xstate.c")], check=True)

    def boot(self, name: str, script: Sequence[str], *parameters: str) -> Outcome:
        """Boot, run the lines of a script with `driver KIND COUNT SIZE` and `run NAME ARGUMENTS...` in it, and power off."""
        folder = self._work / name
        (folder / "out").mkdir(parents=True)
        shutil.copy(self._driver, folder / "out/leakdrv.ko")
        init = folder / "init.sh"
        init.write_text(_INIT.format(folder=folder, python=sys.executable, script="\n".join(script)))
        init.chmod(0o755)
        command = [
            str(self.linux),
            "mem=768M",
            "rootfstype=hostfs",
            "rootflags=/",
            "ro",
            f"init={init}",
            "con=null",
            "con0=fd:0,fd:1",
        ]
        environment = {**os.environ, "LD_PRELOAD": str(self._xstate)}
        done = subprocess.run(
            [*command, "con0=fd:0,fd:1", "quiet", *parameters],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_SECONDS,
            env=environment,
            check=False,
        )
        assert "NO-DRIVER" not in done.stdout, done.stdout[-500:]
        return Outcome(folder / "out", done.stdout)


class Outcome:
    """What the guest left behind."""

    def __init__(self, folder: Path, console: str) -> None:
        self._folder, self.console = folder, console

    def status(self, name: str) -> int:
        path = self._folder / f"{name}.status"
        assert path.exists(), f"{name} did not end: {self.console[-500:]}"
        return int(path.read_text())

    def err(self, name: str) -> str:
        return (self._folder / f"{name}.err").read_text()

    def json(self, name: str) -> Any:
        assert self.status(name) == 0, self.err(name)
        return json.loads((self._folder / f"{name}.out").read_text())


@pytest.fixture(scope="session")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Guest:
    folder = Path(os.environ.get("LEAKLINE_UML_DIR") or ROOT / "build/uml")
    if not any((folder / name).exists() for name in ("linux", "linux.xz")):
        pytest.skip("there is no user-mode Linux: `make test-kernel` builds it, or set LEAKLINE_UML_DIR")
    if shutil.which("busybox") is None:
        pytest.skip("busybox is not installed")
    return Guest(folder, tmp_path_factory.mktemp("uml"))
