"""Options and arguments that several commands share, and what they mean."""

from __future__ import annotations

import os
import re
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LONGEST_SECONDS = 3653 * 86400.0
_LARGEST = 1 << 60
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "": 1.0}
_SIZES = {"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


class Duration(click.ParamType[float]):
    """A number of seconds, or with a unit: 500ms 10s 5m 1h 7d."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401
        """Seconds."""
        if isinstance(value, (int, float)):
            return float(value)
        match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)(ms|s|m|h|d|)", str(value))
        if match is None:
            self.fail(f"{value!r} is not a duration: 30, 500ms, 10s, 5m, 1h or 7d", param, ctx)
        seconds = float(match[1]) * _UNITS[match[2]]
        if seconds > _LONGEST_SECONDS:
            self.fail(f"{value!r} is longer than ten years", param, ctx)
        return seconds


class Every(Duration):
    """A duration, or `every=` and a duration."""

    name = "every"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401
        """Seconds."""
        return super().convert(value.removeprefix("every=") if isinstance(value, str) else value, param, ctx)


class Size(click.ParamType[int]):
    """A number of bytes, or with a unit: 64KiB 10MiB 1GiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401
        """Bytes."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d+)\s*([a-z]*)", str(value).lower())
        if match is None or match[2] not in _SIZES:
            self.fail(f"{value!r} is not a size: 4096, 64KiB, 10MiB or 1GiB", param, ctx)
        size = int(match[1][:40]) * _SIZES[match[2]]
        if size > _LARGEST:
            self.fail(f"{value!r} is more than any machine has", param, ctx)
        return size


class Address(click.ParamType[int]):
    """An address in a process, hexadecimal."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401
        """A number."""
        if isinstance(value, int):
            return value
        if re.fullmatch(r"(0[xX])?[0-9a-fA-F]{1,16}", str(value)) is None:
            self.fail(f"{value!r} is not an address: 0x55d0c0de4010", param, ctx)
        return int(value, 16)


class Rate(click.ParamType[float]):
    """A size in a time: 1MiB/h, 64KiB/s."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401
        """Bytes per second."""
        if isinstance(value, (int, float)):
            return float(value)
        size, slash, unit = str(value).partition("/")
        if not slash or unit not in ("s", "m", "h", "d"):
            self.fail(f"{value!r} is not a rate: 64KiB/s, 1MiB/h or 1GiB/d", param, ctx)
        return Size().convert(size, param, ctx) / _UNITS[unit]


class WithCommand(click.Command):
    """Takes what stands behind `--` as a command to start."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take it out, for the others."""
        if "--" in args:
            at = args.index("--")
            ctx.meta["leakline.command"] = args[at + 1 :]
            args = args[:at]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """With the command."""
        return [*super().collect_usage_pieces(ctx), "[-- COMMAND...]"]


@contextmanager
def closed_pipe_allowed() -> Iterator[None]:
    """Whoever reads us may have seen enough, as `head` does: that is no error, and what follows goes nowhere."""
    try:
        yield
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            with suppress(BrokenPipeError):
                stream.flush()
                continue
            os.dup2(nowhere, stream.fileno())


def say_on_stderr(text: str) -> None:
    """One line for the person at the keyboard."""
    from leakline.present.text import printable

    try:
        with closed_pipe_allowed():
            sys.stderr.write(f"leakline: {printable(text)}\n")
            sys.stderr.flush()
    except OSError:  # a log on a full disk is no reason to end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def speaker(*, quiet: bool) -> Callable[[str], None]:
    """Says on stderr what is being done, or nothing."""
    return (lambda _text: None) if quiet else say_on_stderr
