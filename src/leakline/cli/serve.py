"""`leakline serve`."""

from __future__ import annotations

from pathlib import Path

import click

from leakline.cli.options import Duration, say_on_stderr
from leakline.errors import InvalidRequest, NotPossible

_LEAST_TOKEN = 16


@click.command("serve")
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-p", "--pid", "pids", type=click.IntRange(1), multiple=True, help="Only this process; may be repeated.")
@click.option("--name", metavar="REGEX", help="Only processes whose command or program name this finds.")
@click.option("--cgroup", metavar="PATH", help="Only processes in this control group, and in those below it.")
@click.option("-i", "--interval", type=Duration(), default="1s", show_default=True, help="From look to look.")
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="The address to listen on; any but the loopback needs a token."
)
@click.option("--port", type=click.IntRange(0, 65535), default=5325, show_default=True, help="The port; 0 for any that is free.")
@click.option("--allow-host", "names", multiple=True, metavar="NAME", help="A name that browsers may call it by; may be repeated.")
@click.option(
    "--token-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Ask for the token in this file, everywhere."
)
@click.option("--metrics-only", is_flag=True, help="/metrics, and nothing else.")
@click.option(
    "--top", type=click.IntRange(0, 10_000), default=20, show_default=True, help="Processes and control groups with own metrics."
)
@click.option("--warm-up", type=Duration(), default="1h", show_default=True, help="No LEAK is called in this time after the start.")
@click.option("--horizon", type=Duration(), default="1d", show_default=True, help="A limit that is reached within it is a risk.")
@click.option("-q", "--quiet", is_flag=True, help="Nothing on stderr but the address and errors.")
def command(
    file: Path | None,
    pids: tuple[int, ...],
    name: str | None,
    cgroup: str | None,
    interval: float,
    host: str,
    port: int,
    names: tuple[str, ...],
    token_file: Path | None,
    metrics_only: bool,
    top: int,
    warm_up: float,
    horizon: float,
    quiet: bool,
) -> int:
    """Show the machine, or a recording, in the browser; and to Prometheus by /metrics.

    Live: who holds how much, who grows and how surely, and of one process what its mappings hold. It only reads. Nobody but this
    machine reaches it; on any other address it asks for a token, which it prints once.
    """
    import secrets

    from leakline.analysis.trend import Settings
    from leakline.session.interruption import Interruption
    from leakline.session.monitoring import Monitor
    from leakline.session.recorded_views import RecordedViews
    from leakline.session.sampling import Choice
    from leakline.sources.machine import Machine

    try:
        from leakline.web.app import Dashboard
        from leakline.web.serving import Where, is_loopback, serve
    except ModuleNotFoundError as error:
        raise NotPossible(f"the dashboard needs {error.name}", hint="pip install 'leakline[web]' brings it.") from error

    if interval < 0.01:
        raise click.BadParameter("at least 10ms", param_hint="--interval")
    named = bool(pids) or name is not None or cgroup is not None
    if file is not None and named:
        raise click.UsageError("--pid, --name and --cgroup choose live processes; a recording has its own")
    token = None if token_file is None else _token_in(token_file)
    given = token is not None
    if token is None and not is_loopback(host):
        token = secrets.token_urlsafe(24)
    interruption = Interruption()
    settings = Settings(warm_up, horizon)
    feed: Monitor | RecordedViews
    if file is not None:
        feed = RecordedViews(file, interruption, settings)
    else:
        choice = Choice.of(pids, name=name, cgroup=cgroup, everything=not named)
        feed = Monitor(Machine(), interruption, settings, choice, interval)

    def ready(url: str) -> None:
        secret = f"?token={token}" if token is not None and not given else ""
        say_on_stderr(f"serving {'the machine' if file is None else file.name} on {url}{'metrics' if metrics_only else ''}{secret}")
        if not quiet:
            say_on_stderr("Ctrl-C ends it" + ("; the token is not shown again" if secret else ""))

    def dashboard() -> Dashboard:
        recording = None if file is None else file.name
        return Dashboard(feed, top=top, pages=not metrics_only, recording=recording, interval=interval)

    with interruption.listening():
        serve(dashboard, feed, Where(host, port, names, token), interruption, ready)
    return 0


def _token_in(path: Path) -> str:
    text = path.read_text(errors="replace").strip()
    if len(text) < _LEAST_TOKEN or not text.isascii() or not text.isprintable() or set(text) & set(' ";,\\'):
        raise InvalidRequest(
            f"{path} holds no token", hint=f"{_LEAST_TOKEN} letters, digits, - and _ or more: `openssl rand -hex 24` makes one."
        )
    return text
