"""A real Prometheus and a real VictoriaMetrics on loopback, filled with made series."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

METRIC = "process_resident_memory_bytes"
_LONGEST_START = 60.0


class Filled(NamedTuple):
    """What a server holds."""

    labels: Sequence[Mapping[str, str]]
    times: Sequence[Sequence[int]]
    """Milliseconds since 1970, of each series."""
    values: Sequence[Sequence[float]]
    metrics: Sequence[str] | None = None
    """Of each series, METRIC if None."""

    def metric(self, number: int) -> str:
        """Its name."""
        return METRIC if self.metrics is None else self.metrics[number]


def missing() -> list[str]:
    """Programs that are not installed."""
    return [name for name in ("prometheus", "promtool", "victoria-metrics") if shutil.which(name) is None]


@contextmanager
def victoria_metrics(folder: Path, filled: Filled) -> Iterator[str]:
    """Its address; filled by /api/v1/import."""
    port = _free_port()
    command = [
        *("victoria-metrics", f"-storageDataPath={folder / 'victoria'}", f"-httpListenAddr=127.0.0.1:{port}"),
        *("-retentionPeriod=100y", "-loggerLevel=ERROR"),
    ]
    with _running(command, f"http://127.0.0.1:{port}", "/health") as url:
        for first in range(0, len(filled.labels), 500):
            part = range(first, min(first + 500, len(filled.labels)))
            lines = (
                json.dumps(
                    {
                        "metric": {"__name__": filled.metric(n), **filled.labels[n]},
                        "values": [float(value) for value in filled.values[n]],
                        "timestamps": list(filled.times[n]),
                    }
                )
                for n in part
            )
            _ask(f"{url}/api/v1/import", "\n".join(lines).encode())
        _ask(f"{url}/internal/force_flush", None)
        yield url


@contextmanager
def prometheus(folder: Path, filled: Filled) -> Iterator[str]:
    """Its address; filled by `promtool tsdb create-blocks-from openmetrics`."""
    text, data = folder / "samples.om", folder / "prometheus"
    with text.open("w") as file:
        for name in sorted({filled.metric(n) for n in range(len(filled.labels))}):
            file.write(f"# TYPE {name} gauge\n")
            for n, labels in enumerate(filled.labels):
                if filled.metric(n) != name:
                    continue
                told = ",".join(f"{label}={json.dumps(value)}" for label, value in labels.items())
                file.writelines(
                    f"{name}{{{told}}} {value!r} {when / 1000:.3f}\n"
                    for when, value in zip(filled.times[n], map(float, filled.values[n]), strict=True)
                )
        file.write("# EOF\n")
    # Blocks as Prometheus compacts them to; of two hours each, it would compact them while it is asked.
    make = ["promtool", "tsdb", "create-blocks-from", "--max-block-duration=24h", "openmetrics", str(text), str(data)]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
    text.unlink()
    (folder / "prometheus.yml").write_text("global:\n  scrape_interval: 1h\n")
    port = _free_port()
    command = [
        *("prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={data}", "--log.level=error"),
        *(f"--web.listen-address=127.0.0.1:{port}", "--storage.tsdb.retention.time=100y"),
    ]
    with _running(command, f"http://127.0.0.1:{port}", "/-/ready") as url:
        yield url


@contextmanager
def _running(command: Sequence[str], url: str, ready: str) -> Iterator[str]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + _LONGEST_START
        while True:
            try:
                _ask(url + ready, None)
                break
            except (urllib.error.URLError, ConnectionError):
                if process.poll() is not None or time.monotonic() > end:
                    raise
                time.sleep(0.05)
        yield url
    finally:
        process.kill()
        process.wait()


def _ask(url: str, body: bytes | None) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=60) as answer:
        return bytes(answer.read())


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
