"""Options that say where a fleet's series are, and how one gets at them."""

from __future__ import annotations

import functools
import os
import re
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from leakline.cli.options import Duration, say_on_stderr
from leakline.errors import InvalidRequest, NotPossible
from leakline.model.fleet_metrics import PRESETS, Metric

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from leakline.session.fleet import FleetSource
    from leakline.sources.prometheus.http import Access

_METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_MATCHER = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)(=~|!~|!=|=)("(?:[^"\\\n]|\\.)*")')
_BARE = re.compile(r"([a-zA-Z_][a-zA-Z0-9_]*)(=~|!~|!=|=)([^\"'\s]*)")
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_TOKEN = "LEAKLINE_PROMETHEUS_TOKEN"  # noqa: S105  the variable's name
_OPTIONS = (
    click.option("--prometheus", "url", metavar="URL", help="The address of Prometheus, VictoriaMetrics, Thanos or Mimir."),
    click.option(
        "--parquet", "pattern", metavar="GLOB", help="Instead: files of `leakline export --parquet`, here or in a bucket."
    ),
    click.option(
        "--metric", default="leakline", show_default=True, metavar="NAME", help=f"A metric, or one of {', '.join(sorted(PRESETS))}."
    ),
    click.option("--match", "matchers", multiple=True, metavar="LABEL=VALUE", help="Only such series: =, !=, =~ or !~."),
    click.option("--limit-metric", metavar="NAME", help="The metric that says what each may reach."),
    click.option("--token-file", type=_FILE, help=f"A bearer token; else what {_TOKEN} holds."),
    click.option("--user", help="For basic authentication."),
    click.option("--password-file", type=_FILE, help="The password of --user."),
    click.option("--ca", type=_FILE, help="Certificates to trust instead of the system's (PEM)."),
    click.option("--cert", type=_FILE, help="Our certificate (PEM), where the server asks for one."),
    click.option("--key", type=_FILE, help="Its key (PEM)."),
    click.option("--tenant", help="X-Scope-OrgID, of Mimir and Cortex."),
    click.option("--concurrency", type=click.IntRange(1, 16), default=3, show_default=True, help="Requests at a time."),
    click.option("--timeout", type=Duration(), default="1m", show_default=True, help="For an answer."),
)
_NAMES = (
    *("url", "pattern", "metric", "matchers", "limit_metric", "token_file", "user", "password_file", "ca", "cert", "key", "tenant"),
    *("concurrency", "timeout"),
)


class Store(NamedTuple):
    """Where the series are."""

    url: str | None
    pattern: str | None
    metric: Metric
    matchers: tuple[str, ...]
    limit_metric: str | None
    access: dict[str, Any]
    concurrency: int
    timeout: float

    def open(self) -> AbstractContextManager[FleetSource]:
        """The source, while it is entered."""
        return self._server(self.url) if self.url is not None else self._files(self.pattern or "")

    @contextmanager
    def _server(self, url: str) -> Iterator[FleetSource]:
        try:
            from leakline.sources.prometheus.http import Http
        except ModuleNotFoundError as error:
            raise NotPossible(f"to ask a server takes {error.name}", hint="pip install 'leakline[fleet]' brings it.") from error
        from leakline.sources.prometheus.store import PrometheusStore, Selection

        access = _access(**self.access)
        if (access.token or access.password) and url.startswith("http://") and not _is_loopback(url):
            say_on_stderr("the address begins with http://: whoever is between can read the token or password")
        limits = None if self.limit_metric is None else Selection(self.limit_metric, self.matchers)
        selection = Selection(self.metric.name, (*self.metric.matchers, *self.matchers))
        with Http(url, access, self.timeout) as http:
            yield PrometheusStore(http, selection, limits, self.concurrency)

    @contextmanager
    def _files(self, pattern: str) -> Iterator[FleetSource]:
        try:
            from leakline.store.parquet import ParquetStore
        except ModuleNotFoundError as error:
            raise NotPossible(f"to read Parquet takes {error.name}", hint="pip install 'leakline[fleet]' brings it.") from error
        with ParquetStore(pattern, [_parts(text) for text in self.matchers]) as store:
            yield store


def source_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Where the series are; the command gets it as `store`."""

    @functools.wraps(function)
    def call(*args: Any, **rest: Any) -> Any:  # noqa: ANN401
        return function(*args, store=_store(**{name: rest.pop(name) for name in _NAMES}), **rest)

    decorated: Callable[..., Any] = call
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


def _store(
    *,
    url: str | None,
    pattern: str | None,
    metric: str,
    matchers: tuple[str, ...],
    limit_metric: str | None,
    concurrency: int,
    timeout: float,
    **access: Any,  # noqa: ANN401
) -> Store:
    if (url is None) == (pattern is None):
        raise click.UsageError("give --prometheus URL, or --parquet GLOB")
    chosen = PRESETS.get(metric) or Metric(metric)
    limits = limit_metric or chosen.limit
    for name, option in ((chosen.name, "--metric"), (limits, "--limit-metric")):
        if name is not None and not _METRIC.fullmatch(name):
            raise click.BadParameter(f"{name!r} is no metric", param_hint=option)
    return Store(url, pattern, chosen, tuple(map(_matcher, matchers)), limits, access, concurrency, timeout)


def _matcher(text: str) -> str:
    """As PromQL has it; quotes may be left out."""
    if _MATCHER.fullmatch(text):
        return text
    found = _BARE.fullmatch(text)
    if found is None:
        raise click.BadParameter(f'{text!r} is no matcher: namespace=shop, or env=~"prod.*"', param_hint="--match")
    import json

    return f"{found[1]}{found[2]}{json.dumps(found[3], ensure_ascii=False)}"


def _parts(matcher: str) -> tuple[str, str, str]:
    """Label, comparison and value of a matcher in PromQL."""
    import json

    found = _MATCHER.fullmatch(matcher)
    assert found is not None  # _matcher made it  # noqa: S101
    try:
        return found[1], found[2], json.loads(found[3])
    except ValueError as error:
        raise click.BadParameter(f"{matcher!r}: {error}", param_hint="--match") from error


def _access(
    *,
    token_file: Path | None,
    user: str | None,
    password_file: Path | None,
    ca: Path | None,
    cert: Path | None,
    key: Path | None,
    tenant: str | None,
) -> Access:
    from leakline.sources.prometheus.http import Access

    token = os.environ.get(_TOKEN) if token_file is None else _secret(token_file)
    if token_file is not None and user is not None:
        raise click.UsageError("either --token-file, or --user with --password-file")
    if user is not None:
        token = None
    if (user is None) != (password_file is None):
        raise click.UsageError("--user goes with --password-file")
    if key is not None and cert is None:
        raise click.UsageError("--key goes with --cert")
    if tenant is not None and not (tenant.isascii() and tenant.isprintable()):
        raise click.BadParameter("letters, digits and signs of ASCII", param_hint="--tenant")
    return Access(token, user, None if password_file is None else _secret(password_file), ca, cert, key, tenant)


def _secret(path: Path) -> str:
    try:
        text = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} cannot be read", hint="A file with the secret in its first line.") from error
    if not text or not text.isascii() or not text.isprintable():
        raise InvalidRequest(f"{path} holds no secret", hint="A file with the secret in its first line.")
    return text


def _is_loopback(url: str) -> bool:
    from urllib.parse import urlsplit

    return urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")
