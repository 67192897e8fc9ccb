"""The HTTP API of Prometheus-compatible stores (prometheus.io/docs/prometheus/latest/querying/api).

Whatever comes from a server is checked. Credentials go to the host that was named and to no other: redirects are refused.
"""

from __future__ import annotations

import ssl
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self, TypeVar

import httpx
import msgspec

from leakline.errors import InvalidRequest, LeaklineError, NotPossible, ParseError, PermissionNeeded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")
_ATTEMPTS = 5
_LONGEST_PAUSE = 30.0
_MOST_BYTES = 512 << 20
_BUSY = frozenset({429, 502, 503, 504})
_LONGEST_REASON = 300


class Access(NamedTuple):
    """How one gets in."""

    token: str | None = None
    """A bearer token."""
    user: str | None = None
    password: str | None = None
    ca: Path | None = None
    """Certificates to trust instead of the system's."""
    certificate: Path | None = None
    key: Path | None = None
    tenant: str | None = None
    """X-Scope-OrgID, of Mimir, Cortex and Loki."""


class _Envelope(msgspec.Struct):
    status: str
    data: msgspec.Raw = msgspec.Raw(b"null")
    error: str = ""
    warnings: list[str] = []
    is_partial: bool = msgspec.field(default=False, name="isPartial")


class Answer(NamedTuple):
    """What a store said."""

    data: bytes
    """JSON."""
    warnings: tuple[str, ...]
    """Why it is not all."""


class Http:
    """Asks one server. Use as a context manager; several threads may ask at once.

    Args:
        url: where the API begins, without `/api/v1`.
        access: how one gets in.
        timeout: seconds for an answer.
        sleep: waits between attempts.

    Raises:
        InvalidRequest: that is no address of a server, or a certificate cannot be read.

    """

    def __init__(self, url: str, access: Access, timeout: float = 60.0, sleep: Callable[[float], None] = time.sleep) -> None:
        address = _address(url)
        # Uncompressed: on the networks where such stores are, to compress takes longer than to send.
        headers = {"User-Agent": "leakline", "Accept": "application/json", "Accept-Encoding": "identity"}
        if access.token is not None:
            headers["Authorization"] = f"Bearer {access.token}"
        if access.tenant is not None:
            headers["X-Scope-OrgID"] = access.tenant
        user, password = access.user or address.username, access.password or address.password
        self._base = str(address.copy_with(username=None, password=None)).rstrip("/")
        self._sleep = sleep
        try:
            self._client = httpx.Client(
                headers=headers,
                auth=(user, password) if user else None,
                verify=address.scheme == "https" and _trust(access),
                timeout=httpx.Timeout(timeout, connect=min(timeout, 10.0)),
                follow_redirects=False,
                limits=httpx.Limits(max_connections=16),
            )
        except (OSError, ssl.SSLError) as error:
            raise InvalidRequest(
                f"the certificates cannot be used: {error}", hint="--ca, --cert and --key take PEM files."
            ) from error

    @property
    def address(self) -> str:
        """Without secrets."""
        return self._base

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def ask(self, path: str, form: Mapping[str, str | list[str]]) -> Answer:
        """One answer of the API.

        Raises:
            NotPossible: the server is not there, stays busy, breaks off, redirects, or fails.
            PermissionNeeded: it does not let us in.
            InvalidRequest: it does not take the query.
            ParseError: what it says is no answer.

        """
        for attempt in range(_ATTEMPTS):
            last = attempt + 1 == _ATTEMPTS
            try:
                status, headers, body = self._post(path, form)
            except (httpx.TransportError, httpx.DecodingError) as error:
                if last or isinstance(error, httpx.ReadTimeout):
                    raise NotPossible(
                        f"{self._base}: {_reason(error)}", hint="Check --prometheus, the network and the proxy."
                    ) from error
                self._sleep(_pause(attempt, None))
                continue
            if status in _BUSY and not last:
                self._sleep(_pause(attempt, headers.get("Retry-After")))
                continue
            return self._checked(status, headers, body)
        raise AssertionError("the last attempt returns or raises")

    def _post(self, path: str, form: Mapping[str, str | list[str]]) -> tuple[int, httpx.Headers, bytes]:
        with self._client.stream("POST", self._base + path, data=form) as response:
            parts, size = [], 0
            for part in response.iter_bytes():
                size += len(part)
                if size > _MOST_BYTES:
                    raise ParseError(
                        f"{self._base} answers with more than {_MOST_BYTES >> 20} MiB", hint="Choose fewer series by --match."
                    )
                parts.append(part)
            return response.status_code, response.headers, b"".join(parts)

    def _checked(self, status: int, headers: httpx.Headers, body: bytes) -> Answer:
        if 300 <= status < 400:
            raise NotPossible(
                f"{self._base} redirects to {_host(headers.get('Location', ''))}",
                hint="If that is right, give that address by --prometheus.",
            )
        if status in (401, 403):
            raise PermissionNeeded(
                f"{self._base} does not let us in (status {status})",
                hint="--token-file, --user with --password-file, --cert and --key, --tenant.",
            )
        if status == 404:
            raise NotPossible(f"{self._base} has no Prometheus API (status 404)", hint="Give the address that /api/v1 is under.")
        try:
            found = msgspec.json.decode(body, type=_Envelope)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            if status != 200:
                raise NotPossible(f"{self._base} fails (status {status})", hint="Look at its log, or try later.") from error
            raise ParseError(f"{self._base} does not answer as Prometheus does: {error}", hint="Check --prometheus.") from error
        if found.status != "success":
            why = found.error[:_LONGEST_REASON] or f"status {status}"
            kind: type[LeaklineError] = InvalidRequest if status in (400, 422) else NotPossible
            raise kind(
                f"{self._base} does not answer: {why}",
                hint="Check --metric and --match; fewer series or a shorter --window may help.",
            )
        if status != 200:
            raise NotPossible(f"{self._base} fails (status {status})", hint="Look at its log, or try later.")
        said = [*found.warnings, *(["the store says that its answer is partial"] if found.is_partial else [])]
        return Answer(bytes(found.data), tuple(text[:_LONGEST_REASON] for text in said))


def decode(answer: Answer, kind: type[T], *, strict: bool = True) -> T:
    """The data of an answer.

    Raises:
        ParseError: it is of another form.

    """
    try:
        return msgspec.json.decode(answer.data, type=kind, strict=strict)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ParseError(f"the server's answer has another form than Prometheus's: {error}", hint="Check --prometheus.") from error


def _address(url: str) -> httpx.URL:
    try:
        address = httpx.URL(url)
    except (httpx.InvalidURL, TypeError, ValueError) as error:
        raise InvalidRequest(f"{url!r} is no address", hint="As http://prometheus.example:9090.") from error
    if address.scheme not in ("http", "https") or not address.host or address.query or address.fragment:
        raise InvalidRequest("--prometheus takes the address of a server", hint="As http://prometheus.example:9090.")
    return address


def _trust(access: Access) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=None if access.ca is None else str(access.ca))
    if access.certificate is not None:
        context.load_cert_chain(str(access.certificate), None if access.key is None else str(access.key))
    return context


def _pause(attempt: int, wanted: str | None) -> float:
    pause = 0.5 * 2.0**attempt
    if wanted is not None and wanted.isdigit() and len(wanted) < 6:
        pause = max(pause, float(wanted))
    return min(pause, _LONGEST_PAUSE)


def _reason(error: Exception) -> str:
    return str(error)[:_LONGEST_REASON] or type(error).__name__


def _host(location: str) -> str:
    try:
        return httpx.URL(location).host or "another path"
    except (httpx.InvalidURL, ValueError):
        return "an address that is none"
