"""A server that does what no real one can be made to do: breaks off, lies, sends elsewhere."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qs


class Asked(NamedTuple):
    path: str
    form: dict[str, list[str]]
    headers: dict[str, str]


class Says(NamedTuple):
    """One answer."""

    body: bytes = b""
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    promised: int | None = None
    """Bytes that the header promises, where it is not what comes."""


def success(data: object, **more: object) -> Says:
    return Says(json.dumps({"status": "success", "data": data, **more}).encode())


@contextmanager
def saying(answer: Callable[[Asked], Says], tls: ssl.SSLContext | None = None) -> Iterator[tuple[str, list[Asked]]]:
    """Its address, and what it has been asked."""
    asked: list[Asked] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
            asked.append(Asked(self.path, parse_qs(body), dict(self.headers)))
            says = answer(asked[-1])
            self.send_response(says.status)
            for name, value in says.headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(says.body) if says.promised is None else says.promised))
            self.end_headers()
            self.wfile.write(says.body)
            if says.promised is not None:
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http{'s' if tls is not None else ''}://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
