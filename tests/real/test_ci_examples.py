"""The examples of docs/ci.md, run as far as they can be without a code host."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples/ci"
FOUND = 23


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the example project."""
    return Path(shutil.copytree(EXAMPLES / "project", tmp_path / "project"))


def mend(project: Path) -> None:
    source = project / "names.c"
    text = source.read_text()
    assert "/* free(name) is missing */" in text
    source.write_text(text.replace("/* free(name) is missing */", "free(name);"))


def run(command: str | list[str], project: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["sh", "-ec", command] if isinstance(command, str) else command,
        cwd=project,
        env={**os.environ, "PATH": path, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def require(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


def check_results(project: Path) -> None:
    document = json.loads((project / "leaks.sarif").read_text())
    schema = json.loads((ROOT / "tests/fixtures/schemas/sarif-2.1.0.json").read_text())
    jsonschema.Draft4Validator(schema).validate(document)
    (error,) = [result for result in document["runs"][0]["results"] if result["level"] == "error"]
    place = error["locations"][0]["physicalLocation"]
    assert place["artifactLocation"] == {"uri": "names.c", "uriBaseId": "SRCROOT"}
    source = (project / "names.c").read_text().splitlines()
    assert "malloc(" in source[place["region"]["startLine"] - 1]


def test_github(project: Path) -> None:
    require("cmake")
    workflow = yaml.safe_load((EXAMPLES / "github.yml").read_text())
    steps = workflow["jobs"]["leaks"]["steps"]
    commands = {step["name"]: step["run"] for step in steps if "run" in step}
    assert list(commands) == ["Install leakline", "Build", "Test", "Convert"]
    assert run(commands["Build"], project).returncode == 0
    done = run(commands["Test"], project)
    assert done.returncode == FOUND, done.stdout
    assert "100% tests passed" in done.stdout
    assert re.search(r"leakline: \d+ findings?: .*definite [\d,]+ bytes in \d+ blocks.*; the report is in leaks.json", done.stdout)
    assert run(commands["Convert"], project, GITHUB_STEP_SUMMARY="summary.md").returncode == 0
    check_results(project)
    assert "names.c:" in (project / "summary.md").read_text()
    files = [step["with"].get("sarif_file") or step["with"].get("path") for step in steps if "with" in step]
    assert files == ["leaks.sarif", "leaks.svg"]
    ElementTree.parse(project / "leaks.svg")
    mend(project)
    (project / "leaks.json").unlink()
    assert run(commands["Build"], project).returncode == 0
    assert run(commands["Test"], project).returncode == 0


@pytest.mark.slow
def test_gitlab(project: Path) -> None:
    require("cmake")
    job = yaml.safe_load((EXAMPLES / "gitlab-ci.yml").read_text())["leaks"]
    done = run("\n".join(job["script"]), project)
    assert done.returncode == FOUND, done.stdout
    done = run("\n".join(job["after_script"]), project)
    assert done.returncode == 0
    assert "names.c:" in done.stdout
    assert all((project / path).exists() for path in job["artifacts"]["paths"])


@pytest.mark.slow
def test_ctest(project: Path) -> None:
    require("cmake")
    build = "cmake -S . -B build -DCMAKE_BUILD_TYPE=Debug -DLEAKS=ON; cmake --build build"
    assert run(build, project).returncode == 0
    done = run("ctest --test-dir build --output-on-failure", project)
    assert re.search(r"joined \.* *Passed", done.stdout), done.stdout
    assert re.search(r"greeting \.*\*+Failed", done.stdout), done.stdout
    assert "leaks at names.c:" in done.stdout
    mend(project)
    assert run(build, project).returncode == 0
    assert run("ctest --test-dir build", project).returncode == 0


@pytest.mark.slow
def test_meson(project: Path) -> None:
    require("meson", "ninja")
    assert run("meson setup build", project).returncode == 0
    assert run("meson test -C build", project).returncode == 0
    done = run("meson test -C build --setup leaks --print-errorlogs", project)
    assert f"exit status {FOUND}" in done.stdout, done.stdout
    assert re.search(r"Ok: +1", done.stdout), done.stdout
    assert re.search(r"Fail: +1", done.stdout), done.stdout
    assert "leaks at names.c:" in done.stdout


@pytest.mark.slow
def test_pytest(project: Path) -> None:
    require("cmake")
    assert run("cmake -S . -B build -DCMAKE_BUILD_TYPE=Debug; cmake --build build", project).returncode == 0
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", "test_leaks.py"]
    done = run(command, project)
    assert "1 failed, 1 passed" in done.stdout, done.stdout
    assert "names.c" in done.stdout
    mend(project)
    assert run("cmake --build build", project).returncode == 0
    assert "2 passed" in run(command, project).stdout


def test_the_page_shows_these_files() -> None:
    page = (ROOT / "docs/ci.md").read_text()
    shown = re.findall(r"^```(?:yaml|cmake|meson|python)\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)
    files = [EXAMPLES / name for name in ("github.yml", "gitlab-ci.yml")]
    files += [EXAMPLES / "project" / name for name in ("CMakeLists.txt", "meson.build", "test_leaks.py")]
    assert shown == [path.read_text() for path in files]
