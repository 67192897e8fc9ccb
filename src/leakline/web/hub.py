"""Frames for many clients: each is made once, kept for those who come back, and never waits for those who are slow."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST_WAITING = 8
_MOST_KEPT = 120


class Client:
    """Somebody who listens.

    Args:
        topic: the process that it looks at in depth, by key.

    """

    def __init__(self, topic: str | None) -> None:
        self.topic = topic
        self.dropped = False
        """Whether it was too slow, or the server ends."""
        self._waiting: deque[bytes] = deque()
        self._wake = asyncio.Event()

    def offer(self, frame: bytes) -> bool:
        """Hand over a frame; False where too many wait already, when it is dropped."""
        if len(self._waiting) >= _MOST_WAITING:
            self.drop()
            return False
        self._waiting.append(frame)
        self._wake.set()
        return True

    def drop(self) -> None:
        """Let go of it, and of what waits."""
        self.dropped = True
        self._waiting.clear()
        self._wake.set()

    async def next(self, seconds: float) -> bytes:
        """All that waits, in one; empty when there was nothing for so long, or when it was dropped."""
        if not self._waiting and not self.dropped:
            try:
                await asyncio.wait_for(self._wake.wait(), seconds)
            except TimeoutError:
                return b""
        self._wake.clear()
        joined = self._waiting[0] if len(self._waiting) == 1 else b"".join(self._waiting)
        self._waiting.clear()
        return joined


class Hub:
    """Those who listen, and what was said last.

    Args:
        run: tells this run of the server from others.
        most: clients at most.

    """

    def __init__(self, run: str, most: int) -> None:
        self._run = run
        self._most = most
        self._clients: set[Client] = set()
        self._kept: deque[tuple[int, bytes]] = deque(maxlen=_MOST_KEPT)
        self.number = 0
        self.dropped = 0
        """How many were too slow."""
        self.topics: frozenset[str] = frozenset()
        """The processes that somebody looks at in depth; replaced as a whole, so that another thread may read it."""

    @property
    def clients(self) -> int:
        """How many listen."""
        return len(self._clients)

    @property
    def full(self) -> bool:
        """Whether no more may come."""
        return len(self._clients) >= self._most

    def identifier(self, number: int) -> str:
        """What a client that comes back says it heard last."""
        return f"{self._run}-{number}"

    def publish(self, number: int, frame: bytes) -> None:
        """Say to all, and keep for those who come back."""
        self.number = number
        self._kept.append((number, frame))
        for client in list(self._clients):
            if not client.offer(frame):
                self._forget(client)

    def tell(self, topic: str, frame: bytes) -> None:
        """Say to those who look at one process; not kept, the next one says it all again."""
        for client in list(self._clients):
            if client.topic == topic and not client.offer(frame):
                self._forget(client)

    def missed(self, last: str | None) -> list[bytes] | None:
        """What was said since, to a client that comes back; None where it must begin anew."""
        run, _, number = (last or "").rpartition("-")
        if run != self._run or not number.isascii() or not number.isdigit() or not self._kept:
            return None
        heard = int(number[:18])
        if not self._kept[0][0] - 1 <= heard <= self._kept[-1][0]:
            return None
        return [frame for kept, frame in self._kept if kept > heard]

    def close(self) -> None:
        """End all."""
        for client in self._clients:
            client.drop()

    @contextmanager
    def joined(self, client: Client) -> Iterator[None]:
        """Listen, as long as the context lasts."""
        self._clients.add(client)
        self._count_topics()
        try:
            yield
        finally:
            self._clients.discard(client)
            self._count_topics()

    def _forget(self, client: Client) -> None:
        self.dropped += 1
        self._clients.discard(client)
        self._count_topics()

    def _count_topics(self) -> None:
        self.topics = frozenset(client.topic for client in self._clients if client.topic is not None)
