"""Ctrl-C: the first one ends the waiting and keeps what there is; a second one ends the command."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


class Interruption:
    """Whether the person at the keyboard asked to stop."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    @property
    def asked(self) -> bool:
        """Whether there was a Ctrl-C."""
        return self._asked.is_set()

    def ask(self) -> None:
        """Stop, as by a Ctrl-C."""
        self._asked.set()

    def wait(self, seconds: float) -> bool:
        """Wait, at most until the first Ctrl-C; returns whether there was one."""
        return self._asked.wait(min(max(seconds, 0), threading.TIMEOUT_MAX))

    def ticks(self, interval: float, duration: float) -> Iterator[float]:
        """Yield the time since the start, now and every `interval` seconds until `duration` is over; missed ones are left out."""
        began = time.monotonic()
        count = 0
        while not self.asked:
            elapsed = time.monotonic() - began
            yield elapsed
            if elapsed >= duration:
                return
            count = max(count, int((time.monotonic() - began) / interval)) + 1
            self.wait(min(count * interval, duration) - (time.monotonic() - began))

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM as the request to stop; a second one raises KeyboardInterrupt."""

        def ask(_number: int, _frame: FrameType | None) -> None:
            if self.asked:
                raise KeyboardInterrupt
            self._asked.set()

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
