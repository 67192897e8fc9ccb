"""Build the native parts into the package: plain shared objects, so that one wheel serves every Python.

Without a compiler the build goes on and the wheel is pure; `leakline doctor` then says what is missing and what that costs.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LIBRARIES = ["heap", "smaps"]  # folders of native/
AGENT = ["agent", "unwind"]  # which make up one library
LIBRARY_FLAGS = ["-std=c11", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-fvisibility=default", "-shared", "-fPIC"]
BPF_FLAGS = ["-O2", "-g", "-Wall", "-Werror", "-target", "bpf", "-mcpu=v3", "-D__TARGET_ARCH_x86"]


class NativeBuildHook(BuildHookInterface[Any]):
    """Compile `native/` with what the machine has."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        root = Path(self.root)
        out = root / "src/leakline/_native"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        if platform.machine() != "x86_64":
            self.app.display_warning(f"leakline's native parts are for x86-64, not {platform.machine()}: building without them")
            return
        compiler = next(filter(shutil.which, ("cc", "gcc", "clang")), None)
        built = False
        for name in LIBRARIES:
            sources = sorted(map(str, (root / "native" / name).glob("*.c")))
            arguments = [*LIBRARY_FLAGS, *sources, "-o", str(out / f"libleakline-{name}.so")]
            built = self._run(compiler, "a C compiler", arguments) or built
        arguments = [f"@{root / 'native/agent/flags'}", *(str(p) for n in AGENT for p in sorted((root / "native" / n).glob("*.c")))]
        built = self._run(compiler, "a C compiler", [*arguments, "-o", str(out / "libleakline-agent.so")]) or built
        clang = next(filter(shutil.which, ("clang", *(f"clang-{n}" for n in range(25, 10, -1)))), None)
        multiarch = Path("/usr/include") / f"{platform.machine()}-linux-gnu"
        bpf = [*BPF_FLAGS, f"-I{multiarch}", "-c", str(root / "native/bpf/heap.bpf.c"), "-o", str(out / "heap.bpf.o")]
        built = self._run(clang, "clang", bpf) or built
        if built:
            build_data["pure_python"] = False
            build_data["tag"] = "py3-none-linux_x86_64"

    def _run(self, compiler: str | None, name: str, arguments: list[str]) -> bool:
        if compiler is None:
            self.app.display_warning(f"no {name}: building without {Path(arguments[-1]).name}")
            return False
        done = subprocess.run([compiler, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            self.app.display_warning(f"{compiler} failed, building without {Path(arguments[-1]).name}:\n{done.stderr}")
            Path(arguments[-1]).unlink(missing_ok=True)
            return False
        sys.stderr.write(done.stderr)
        return True
