"""The server: one thread looks, one loop answers."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

import uvicorn

from leakline.errors import InvalidRequest
from leakline.web.app import Dashboard
from leakline.web.guard import Guard, Rules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from leakline.session.interruption import Interruption
    from leakline.web.app import Feed

_SEND_BUFFER = 256 << 10
_UNREAD_MS = 20_000
_CLOSE_SECONDS = 1
_MOST_CONNECTIONS = 1200


class Where(NamedTuple):
    """Where to listen, and who may ask."""

    host: str
    port: int
    names: tuple[str, ...]
    """That Host may say besides."""
    token: str | None


class _Server(uvicorn.Server):
    """Leaves signals to us."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing: `leakline` has its own."""
        yield


def is_loopback(host: str) -> bool:
    """Whether nobody else reaches this address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve(
    dashboard_of: Callable[[], Dashboard], feed: Feed, where: Where, interruption: Interruption, ready: Callable[[str], None]
) -> None:
    """Serve until the interruption.

    Args:
        dashboard_of: makes the application, in the loop that it runs in.
        feed: what it shows.
        where: address, and who may ask.
        interruption: ends it.
        ready: hears the address once everybody may ask.

    Raises:
        InvalidRequest: the address cannot be had.
        LeaklineError: there is nothing to look at.

    """
    with _listening(where) as listener:
        asyncio.run(_serve(dashboard_of(), feed, where, interruption, listener, ready))


async def _serve(
    dashboard: Dashboard,
    feed: Feed,
    where: Where,
    interruption: Interruption,
    listener: socket.socket,
    ready: Callable[[str], None],
) -> None:
    port = listener.getsockname()[1]
    names = frozenset(name.lower() for name in (*where.names, *([] if is_loopback(where.host) else [socket.gethostname()])))
    rules = Rules(names, port, is_loopback(where.host), where.token)
    config = uvicorn.Config(
        Guard(dashboard.app, rules),
        log_config=None,
        log_level="critical",  # what clients do wrong is no news; what we do wrong is told by the guard
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        proxy_headers=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_graceful_shutdown=_CLOSE_SECONDS,
    )
    server = _Server(config)
    loop = asyncio.get_running_loop()
    failures: list[BaseException] = []
    seen = asyncio.Event()

    def end() -> None:
        dashboard.hub.close()
        server.should_exit = True
        seen.set()

    def look() -> None:
        try:
            for view in feed.views():
                loop.call_soon_threadsafe(dashboard.see, view)
                loop.call_soon_threadsafe(seen.set)
                for topic, frame in dashboard.look_into(dashboard.hub.topics).items():
                    loop.call_soon_threadsafe(dashboard.hub.tell, topic, frame)
            interruption.wait(float("inf"))  # nothing more comes; what was seen is still shown
        except BaseException as error:  # noqa: BLE001  it is raised where the command can tell it
            failures.append(error)
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(end)

    looking = threading.Thread(target=look, name="look")
    looking.start()
    await seen.wait()
    if not failures:
        host = f"[{where.host}]" if ":" in where.host else where.host
        ready(f"http://{host}:{port}/")
        await server.serve(sockets=[listener])
    await asyncio.to_thread(looking.join)
    for failure in failures:
        raise failure


@contextmanager
def _listening(where: Where) -> Iterator[socket.socket]:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InvalidRequest(f"{where.host} is no address of this machine: {error.strerror}") from error
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # What a client does not read is held in bounds, and not for ever: connections inherit both (tcp(7)).
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD_MS)
        try:
            listener.bind(address)
            listener.listen(1024)
        except OSError as error:
            raise InvalidRequest(
                f"cannot listen on {where.host}, port {where.port}: {error.strerror}",
                hint="--port chooses another one; 0 any that is free.",
            ) from error
        listener.setblocking(False)
        yield listener
