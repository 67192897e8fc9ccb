from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from leakline.cli.main import COMMANDS
from tests.conftest import Leakline

ROOT = Path(__file__).parents[2]


def test_help_lists_every_command(leakline: Leakline) -> None:
    out = leakline("--help").out
    for name in COMMANDS:
        assert f"  {name} " in out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_a_man_page(leakline: Leakline, name: str) -> None:
    assert "Usage: leakline" in leakline(name, "-h").out
    page = leakline("man", name).out
    assert page.startswith('.TH "LEAKLINE')
    assert "SYNOPSIS" in page


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completions(leakline: Leakline, shell: str) -> None:
    assert "_LEAKLINE_COMPLETE" in leakline("completions", shell).out


def test_completion_answers(leakline: Leakline) -> None:
    import os

    environment = {**os.environ, "_LEAKLINE_COMPLETE": "bash_complete", "COMP_WORDS": "leakline dia", "COMP_CWORD": "1"}
    assert "diagnose" in leakline(env=environment).out


def test_version(leakline: Leakline) -> None:
    import leakline as library

    assert leakline("-V").out == f"leakline {library.__version__}\n"


def test_importing_the_library_loads_nothing_heavy() -> None:
    code = "import leakline, sys; print([m for m in ('rich', 'numpy', 'elftools', 'click', 'msgspec') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_loads_neither_rich_nor_numpy_nor_a_command() -> None:
    code = (
        "import sys\n"
        "from leakline.cli.main import cli\n"
        "cli.main(['--help'], prog_name='leakline', standalone_mode=False)\n"
        "heavy = [m for m in sys.modules if m.split('.')[0] in ('rich', 'numpy', 'elftools') or m.startswith('leakline.s')]\n"
        "print(heavy, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["diagnose", "abc"], "abc"),
        (["diagnose", "-5"], "-5"),
        (["diagnose", "--name", "("], "regular expression"),
        (["diagnose", "1", "--budget", "soon"], "duration"),
        (["diagnose", "--"], "no command"),
        (["diagnose", "1", "--", "true"], "either"),
        (["diagnose", "--json", "--", "true"], "--output"),
        (["diagnose", "--findings-exit", "3", "1"], "--fail-on"),
        (["trace", "1", "--min-size", "big"], "size"),
        (["scan", "1", "--confirm", "0"], "confirm"),
        (["nosuch"], "nosuch"),
        (["doctor", "--nosuch"], "--nosuch"),
        (["scan", "1", "-o", "/nosuchfolder/x"], "not a folder"),
        (["man", "nosuch"], "nosuch"),
    ],
)
def test_wrong_usage_is_explained(leakline: Leakline, arguments: list[str], says: str) -> None:
    result = leakline(*arguments, status=2)
    assert says in result.err
    assert result.err.startswith(("leakline: ", '{"error"'))
    assert "Traceback" not in result.err
    assert result.out == ""


def test_errors_are_json_where_json_was_asked_for(leakline: Leakline) -> None:
    result = leakline("scan", "4000000", "--json", status=4)
    error = json.loads(result.err)["error"]
    assert error["type"] == "TargetGone"
    assert "4000000" in error["message"]
    assert error["hint"]


def test_an_existing_file_is_not_replaced(leakline: Leakline, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    report.write_text("mine")
    assert "exists" in leakline("scan", "1", "-o", report, status=2).err
    assert report.read_text() == "mine"


def test_an_error_of_ours_is_said_and_not_thrown(leakline: Leakline, tmp_path: Path) -> None:
    """An exception that nobody foresaw: provoked by a broken library in front of ours."""
    (tmp_path / "elftools.py").write_text("raise RuntimeError('broken \\x1b[31m')")
    import os

    result = leakline("scan", "1", status=70, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert "RuntimeError" in result.err
    assert "\x1b" not in result.err
    assert "Traceback" not in result.err


def test_the_layers_and_the_commands_have_their_docs() -> None:
    for name in COMMANDS:
        assert (ROOT / f"docs/commands/{name}.md").exists(), name
