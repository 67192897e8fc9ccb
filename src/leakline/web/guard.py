"""Who may ask: method, Host, Origin, token and rate are checked before anything else, and every answer is locked down.

Sources: RFC 9110 (Host), RFC 6454 (Origin), Fetch Metadata (W3C). A name that is rebound to 127.0.0.1 still comes in Host.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, PlainTextResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_log = logging.getLogger(__name__)
_MOST_ADDRESSES = 1024
_PER_SECOND, _BURST = 50.0, 500.0
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "x-frame-options": "DENY",
}
_WELCOME = """<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="0;url={url}">
<link rel="icon" href="/static/icon.svg" type="image/svg+xml"><title>leakline</title><p><a href="{url}">leakline</a></p></html>"""
_HOW_TO_ENTER = (
    "A token is needed: `leakline serve` printed a URL that has it when it was started.\n"
    "A program sends it as `Authorization: Bearer TOKEN`.\n"
)


def _is_of(origin: str, host: str) -> bool:
    """Whether a page of this origin was served by this host."""
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False


class Rules(NamedTuple):
    """Who may ask."""

    names: frozenset[str]
    """That Host may say, in small letters, without the port; addresses aside."""
    port: int
    loopback_only: bool
    """Whether of addresses only those of the loopback may be named."""
    token: str | None
    """None where none is needed."""

    @property
    def cookie(self) -> str:
        """Cookies do not tell ports apart: their names must."""
        return f"leakline-{self.port}"


class Guard:
    """Lets requests through to the application, or refuses them.

    Args:
        app: the application.
        rules: who may ask.

    """

    def __init__(self, app: ASGIApp, rules: Rules) -> None:
        self._app = app
        self._rules = rules
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return

        async def locked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        refusal = self._refusal(scope)
        try:
            await (self._app if refusal is None else refusal)(scope, receive, locked)
        except Exception:  # noqa: BLE001  one request ends, and the others do not
            _log.exception("a request was not answered: this is a bug in leakline")

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        headers = Headers(scope=scope)
        client = scope.get("client")
        if not self._in_time(client[0] if client else ""):
            return PlainTextResponse("Too many requests.\n", 429, {"retry-after": "1"})
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            return PlainTextResponse("This Host is not served here; --allow-host NAME of `leakline serve` allows it.\n", 421)
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("Only GET and HEAD.\n", 405, {"allow": "GET, HEAD"})
        if not all(_is_of(origin, hosts[0]) for origin in headers.getlist("origin")):
            return PlainTextResponse("Pages of other origins may not ask.\n", 403)
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and headers.get("sec-fetch-mode") != "navigate":
            return PlainTextResponse("Pages of other origins may not ask.\n", 403)
        return self._without_token(scope, headers) if self._rules.token is not None else None

    def _in_time(self, address: str) -> bool:
        """Whether this address has not asked too often: so many a second, and some more at once."""
        now = time.monotonic()
        left, when = self._buckets.pop(address, (_BURST, now))
        left = min(_BURST, left + (now - when) * _PER_SECOND)
        self._buckets[address] = max(0.0, left - 1), now
        if len(self._buckets) > _MOST_ADDRESSES:
            self._buckets.popitem(last=False)
        return left >= 1

    def _is_ours(self, host: str) -> bool:
        try:
            parts = urlsplit(f"//{host}")
            name, port = parts.hostname, parts.port
        except ValueError:
            return False
        if name is None or parts.username is not None or parts.path or parts.query or parts.fragment:
            return False
        if name in self._rules.names:
            return True  # behind a proxy, at any port
        if (port or 80) != self._rules.port:
            return False
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name == "localhost"
        return address.is_loopback or not self._rules.loopback_only

    def _without_token(self, scope: Scope, headers: Headers) -> ASGIApp | None:
        cookie = self._rules.cookie
        shown = headers.get("authorization", "")
        kept = [
            value
            for name, _, value in (part.strip().partition("=") for part in headers.get("cookie", "").split(";"))
            if name == cookie
        ]
        if (shown[:7].lower() == "bearer " and self._is_token(shown[7:].strip())) or any(map(self._is_token, kept)):
            return None
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if any(name == "token" and self._is_token(value) for name, value in query):
            # Not a redirection: after a click elsewhere a strict cookie would not come along with it.
            rest = urlencode([(name, value) for name, value in query if name != "token"])
            url = "/" + (f"?{rest.replace('&', '&amp;')}" if rest else "")
            secret = f"{cookie}={self._rules.token}; Path=/; HttpOnly; SameSite=Strict"
            return HTMLResponse(_WELCOME.format(url=url), headers={"set-cookie": secret})
        return PlainTextResponse(_HOW_TO_ENTER, 401, {"www-authenticate": 'Bearer realm="leakline"'})

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(), (self._rules.token or "").encode())
