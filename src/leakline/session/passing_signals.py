"""Signals that are meant for a program which leakline started, but reach leakline."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

# A terminal sends these to everybody in the foreground, so that the program has them already.
_OF_TERMINAL = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
_PASSED_ON = (*_OF_TERMINAL, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Recipient:
    """Who gets them, once it is there: until then they are kept."""

    def __init__(self) -> None:
        self._pid = 0
        self._kept: list[int] = []

    def is_now(self, pid: int) -> None:
        """A child of ours that nobody has waited for yet."""
        self._pid = pid
        for number in self._kept:
            self.send(number)

    def has_ended(self) -> None:
        """Its number may be another's soon."""
        self._pid = -1

    def send(self, number: int) -> None:
        """Pass one on."""
        if self._pid == 0:
            self._kept.append(number)
        elif self._pid > 0:
            with suppress(ProcessLookupError, PermissionError):  # it runs as somebody else by now
                os.kill(self._pid, number)


@contextmanager
def passing_signals_on() -> Iterator[Recipient]:
    """Whatever asks leakline to end, asks the program; leakline ends with it. Signals that are ignored stay so."""
    recipient = Recipient()

    def pass_on(number: int, _frame: FrameType | None) -> None:
        if number not in _OF_TERMINAL or not _in_foreground():
            recipient.send(number)

    before = {}
    for number in _PASSED_ON:
        handler = signal.getsignal(number)
        if handler is not signal.SIG_IGN and handler is not None:
            before[number] = handler
            signal.signal(number, pass_on)
    try:
        yield recipient
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _in_foreground() -> bool:
    """Whether the terminal's keys reach us, and with us the program."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
