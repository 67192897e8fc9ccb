"""A server for the tests."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple


class Server(NamedTuple):
    """`leakline serve`, that listens."""

    process: subprocess.Popen[str]
    address: str
    """Without what follows the port."""
    said: str
    """The line that says where."""

    @property
    def port(self) -> int:
        return int(self.address.rsplit(":", 1)[1])


class Answer(NamedTuple):
    status: int
    text: str
    headers: dict[str, str]


@contextmanager
def serving(*arguments: object, below: Sequence[str] = ()) -> Iterator[Server]:
    """Start it on a free port, by another command if one is given; a Ctrl-C ends it, with 0 and without a word of trouble."""
    command = [*below, sys.executable, "-m", "leakline", "serve", "--port", "0", *map(str, arguments)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = process.stderr.readline()
    found = re.search(r"http://\S+?:\d+", said)
    if found is None:
        process.kill()
        raise AssertionError(said + process.communicate()[1])
    try:
        yield Server(process, found[0], said)
    finally:
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=30)
    assert "Traceback" not in rest, rest
    assert process.returncode == 0, rest


def ask(address: str, method: str = "GET", **headers: str) -> Answer:
    """One request; underscores in the names of headers stand for dashes."""
    request = urllib.request.Request(address, method=method, headers={k.replace("_", "-"): v for k, v in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return Answer(answer.status, answer.read().decode(), {k.lower(): v for k, v in answer.headers.items()})
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.read().decode(), {k.lower(): v for k, v in error.headers.items()})
