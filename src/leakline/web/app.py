"""The application: a page, events for it, metrics for Prometheus, and the report of a process to take away."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import time
from contextlib import suppress
from importlib import import_module, resources
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from leakline import __version__
from leakline.errors import LeaklineError, NotPossible
from leakline.present.export.openmetrics import CONTENT_TYPES, metrics
from leakline.present.json import to_json
from leakline.web.frames import Frames, depth_frame, sparks
from leakline.web.hub import Client, Hub

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from types import ModuleType

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from leakline.model.finding import Report
    from leakline.model.live import Points, ProcessDepth, View
    from leakline.present.export.openmetrics import MetricForm

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".json": "application/json",
}
_PAGE = "leakline.session.html_page"
_KEY = re.compile(r"[a-z0-9]{1,20}-[0-9]{1,20}")
_MOST_CLIENTS = 1000
_QUIET_SECONDS = 15.0
_SEND_SECONDS = 10.0
_MOST_ASKING = 8
_REPORT_SECONDS = 2.0


class Feed(Protocol):
    """What is shown: a live machine, or a recording."""

    def views(self, duration: float = ...) -> Iterator[View]:
        """One for each look."""

    def histories(self) -> dict[str, Points]:
        """What each process held, by key."""

    def depth(self, key: str) -> ProcessDepth | None:
        """One process."""

    def report(self, key: str) -> Report:
        """Findings about one process."""


class Dashboard:
    """The application and what it says.

    Args:
        feed: what is shown.
        top: processes with metrics of their own.
        pages: False for metrics alone.
        recording: the name of the file that is shown; None for the live machine.
        interval: seconds from look to look.

    """

    def __init__(self, feed: Feed, *, top: int, pages: bool, recording: str | None, interval: float) -> None:
        self._feed = feed
        self._top = top
        about = {
            "host": os.uname().nodename,
            "kernel": os.uname().release,
            "version": __version__,
            "recording": recording,
            "interval": interval,
            "reports": ["html", "json"] if _html_page() is not None else ["json"],
        }
        self._frames = Frames(about)
        self.hub = Hub(secrets.token_hex(4), _MOST_CLIENTS)
        self._view: View | None = None
        self._metrics: dict[MetricForm, str] = {}
        self._sparks: tuple[int, bytes] = (-1, b"{}")
        self._sparking = asyncio.Lock()
        self._reporting = asyncio.Lock()
        self._asking = 0
        self._made: dict[tuple[str, str], bytes] = {}
        routes = [Route("/metrics", self._metrics_page)]
        if pages:
            routes += [
                Route("/", self._file),
                Route("/static/{name}", self._file),
                Route("/api/events", _Events(self)),
                Route("/api/processes/{key}/report.{form}", self._report),
            ]
        self.app = Starlette(routes=routes)

    def see(self, view: View) -> None:
        """Take a view, and tell all who listen."""
        self._view = view
        self._metrics.clear()
        number = self.hub.number + 1
        self.hub.publish(number, self._frames.difference(view, self.hub.identifier(number)))

    def look_into(self, topics: Collection[str]) -> dict[str, bytes]:
        """The processes that somebody looks at in depth; to be called where it may take some time."""
        return {topic: depth_frame(topic, self._feed.depth(topic)) for topic in topics}

    async def beginning(self, last: str | None) -> list[bytes]:
        """What a new client hears first, up to the present; it must listen from then on."""
        missed = self.hub.missed(last)
        if missed is not None:
            return missed
        async with self._sparking:
            if self._sparks[0] != self.hub.number:
                number = self.hub.number
                self._sparks = number, await asyncio.to_thread(lambda: sparks(self._feed.histories()))
        return [self._frames.whole(self.hub.identifier(self.hub.number), self._sparks[1])]

    async def _metrics_page(self, request: Request) -> Response:
        if self._view is None:
            return PlainTextResponse("Nothing was seen yet.\n", 503, {"retry-after": "1"})
        form: MetricForm = "openmetrics" if "application/openmetrics-text" in request.headers.get("accept", "") else "text"
        if form not in self._metrics:
            self._metrics[form] = metrics(self._view, form, self._top, __version__)
        return Response(self._metrics[form], media_type=CONTENT_TYPES[form])

    async def _file(self, request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        kind = _TYPES.get(os.path.splitext(name)[1])
        if kind is None or not re.fullmatch(r"[a-z]+\.[a-z]+", name):
            return PlainTextResponse("There is no such file.\n", 404)
        try:
            data = (resources.files("leakline.web") / "static" / name).read_bytes()
        except FileNotFoundError:
            return PlainTextResponse("There is no such file.\n", 404)
        return Response(data, media_type=kind, headers={"cache-control": "no-cache"})

    async def _report(self, request: Request) -> Response:
        key, form = request.path_params["key"], request.path_params["form"]
        make = _REPORTS.get(form)
        if make is None or not _KEY.fullmatch(key):
            return PlainTextResponse("There is no such process.\n", 404)
        if self._asking >= _MOST_ASKING:
            return PlainTextResponse("Too many reports are being made.\n", 503, {"retry-after": "1"})
        self._asking += 1
        try:
            async with self._reporting:  # one at a time, and none anew within seconds: each reads all mappings of its process
                data = self._made.get((key, form))
                if data is None:
                    data = await asyncio.to_thread(lambda: make(self._feed.report(key)))
                    self._made[key, form] = data
                    asyncio.get_running_loop().call_later(_REPORT_SECONDS, self._made.pop, (key, form), None)
        except LeaklineError as error:
            return PlainTextResponse(f"{error.message}\n", 404)
        finally:
            self._asking -= 1
        name = f"leakline-{key}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.{form}"
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        return Response(data, media_type=_TYPES[f".{form}"], headers=headers)


def _html_page() -> ModuleType | None:
    """What writes reports as pages, where it is there."""
    with suppress(ModuleNotFoundError):
        if find_spec("jinja2") is not None:
            return import_module(_PAGE)
    return None


def _as_html(report: Report) -> bytes:
    page = _html_page()
    if page is None:
        raise NotPossible("reports as pages are not to be had here")
    data: bytes = page.html_report(page.page_of_reports([report], source=False))
    return data


_REPORTS: dict[str, Callable[[Report], bytes]] = {"json": lambda report: to_json(report).encode(), "html": _as_html}


class _Events:
    """The stream of events of one client; an ASGI application, so that a client that does not read holds nothing up."""

    def __init__(self, dashboard: Dashboard) -> None:
        self._dashboard = dashboard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.requests import Request

        request, hub = Request(scope, receive), self._dashboard.hub
        topic = request.query_params.get("process")
        if topic is not None and not _KEY.fullmatch(topic):
            await PlainTextResponse("There is no such process.\n", 404)(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            await Response(media_type="text/event-stream")(scope, receive, send)
            return
        if hub.full:
            await PlainTextResponse("Too many look already.\n", 503, {"retry-after": "5"})(scope, receive, send)
            return
        client = Client(topic)
        leaving = asyncio.create_task(_until_left(receive, client))
        try:
            headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            frames = await self._dashboard.beginning(request.headers.get("last-event-id"))
            with hub.joined(client):
                first = b"".join(frames)
                if topic is not None:
                    first += (await asyncio.to_thread(self._dashboard.look_into, {topic}))[topic]
                await _send_in_time(send, first or b": welcome back\n\n")
                while not client.dropped:
                    frame = await client.next(_QUIET_SECONDS)
                    if not client.dropped:
                        await _send_in_time(send, frame or b": still there\n\n")
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            client.drop()  # it does not read: the connection is closed with what was not sent
        finally:
            leaving.cancel()


async def _send_in_time(send: Send, body: bytes) -> None:
    async with asyncio.timeout(_SEND_SECONDS):
        await send({"type": "http.response.body", "body": body, "more_body": True})


async def _until_left(receive: Receive, client: Client) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    client.drop()
