"""The entry point: it finds the command, and turns errors into a message, a next step and an exit code."""

from __future__ import annotations

import errno
import gc
import io
import os
import sys
from importlib import import_module
from typing import NoReturn

import click

from leakline import __version__
from leakline.cli.options import closed_pipe_allowed
from leakline.errors import LeaklineError

# Name -> the line that `--help` shows. The module of that name in this package holds the command.
COMMANDS = {
    "diagnose": "Climb from a rising process to the line that leaks.",
    "run": "Start a program, and name what it has lost at its end, to the line.",
    "check": "Name what a program that `run` started has lost so far, to the line.",
    "scan": "Find the lost heap blocks of a running process.",
    "trace": "Record the allocations of a running process, and tell which are lost.",
    "watch": "Watch processes, and say when their memory is judged to grow.",
    "top": "Show live which processes grow, and one of them in depth; replay a recording.",
    "record": "Sample processes and the machine into a file, for minutes or weeks.",
    "trend": "Judge whether series of memory grow without end.",
    "report": "Show a recording, or what leakline, valgrind, a sanitizer or the kernel has found.",
    "diff": "Compare two files of findings: what is new, what grew, what is gone.",
    "serve": "Show the machine, or a recording, in the browser; and to Prometheus by /metrics.",
    "metrics": "Write these metrics for node_exporter's textfile collector, or to stdout.",
    "fleet": "Judge many hosts by their Prometheus: what leaks, since which release, how surely.",
    "export": "Write a recording as Parquet, for `fleet` and other programs.",
    "system": "Show where all of the machine's memory is.",
    "kernel": "Watch the kernel's own memory: what grows, whose it is, which line allocates it.",
    "ps": "Show what processes hold: USS, PSS, RSS, VSS and swap.",
    "maps": "Show the mappings of a process, and what each is and holds.",
    "faults": "Show how a process gets its pages, and of what it died.",
    "snapshot": "Keep this machine's /proc and /sys files in an archive, for --root.",
    "doctor": "Show what works on this machine, and how to get the rest.",
    "completions": "Print the completion script for a shell.",
    "man": "Print the manual page of a command.",
}


class LazyGroup(click.Group):
    """Imports a command's module only when it runs: `--help` stays quick."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """All commands, in the order of the ladder."""
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        """Import a command."""
        if name not in COMMANDS:
            return None
        command = import_module(f"leakline.cli.{name}").command
        if not isinstance(command, click.Command):
            raise TypeError(name)
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", message="leakline %(version)s")
def cli() -> None:
    """From "memory keeps rising" to the source line that leaks it: in any running process, never rebuilt.

    \b
    leakline diagnose --name myserver    climb the whole ladder
    leakline scan 4711                   only look for lost blocks
    leakline doctor                      what works here

    Exit status: 0 done; 1 a finding at or over --fail-on; 2 usage; 3 permission; 4 target gone; 5 not possible here;
    6 unreadable file; 70 a bug of ours; 130 interrupted.
    """  # noqa: D301  click takes a backspace for "do not wrap this paragraph"


def _fail(kind: str, message: str, hint: str, code: int) -> NoReturn:
    from leakline.present.text import printable

    # With --json errors are objects too; they go to stderr, so that stdout holds a report or nothing.
    if "--json" in sys.argv[1 : sys.argv.index("--") if "--" in sys.argv else None]:
        import msgspec

        body = {"error": {"type": kind, "message": printable(message), "hint": printable(hint)}}
        sys.stderr.write(msgspec.json.encode(body).decode() + "\n")
    else:
        sys.stderr.write(f"leakline: {printable(message)}\n  {printable(hint)}\n")
    sys.exit(code)


def _fail_by_bug(error: Exception) -> NoReturn:
    if os.environ.get("LEAKLINE_TRACEBACK"):
        raise error
    hint = f"{LeaklineError.default_hint} LEAKLINE_TRACEBACK=1 shows where it happened."
    _fail("InternalError", f"{type(error).__name__}: {error}", hint, LeaklineError.exit_code)


def _leave(code: int) -> NoReturn:
    """End without taking the interpreter apart: to free thousands of records takes longer than to print them."""
    with closed_pipe_allowed():
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _mend_streams() -> None:
    """A closed stdout or stderr becomes /dev/null; what a terminal's encoding lacks is shown as an escape."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def main() -> NoReturn:
    """Run the command line."""
    # Tables make thousands of records without a cycle: the usual 700 allocations between searches for cycles cost a tenth.
    gc.set_threshold(100_000)
    _mend_streams()
    try:
        code = cli.main(prog_name="leakline", standalone_mode=False)
        _leave(code if isinstance(code, int) else 0)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except LeaklineError as error:
        _fail(type(error).__name__, error.message, error.hint, error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "leakline"
        _fail(type(error).__name__, error.format_message(), f"`{path} --help` shows what it takes.", 2)
    except (click.Abort, KeyboardInterrupt):
        _leave(130)
    except OSError as error:
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EIO):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            _fail("OutputError", f"cannot write the output: {error.strerror}", "Free some space, or use --output elsewhere.", 2)
        _fail_by_bug(error)
    except Exception as error:  # noqa: BLE001  nothing may end in a traceback
        _fail_by_bug(error)
