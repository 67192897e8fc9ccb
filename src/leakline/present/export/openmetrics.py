"""A view as metrics, for Prometheus and whoever reads its formats.

Sources: OpenMetrics 1.0 (prometheus/OpenMetrics, specification/OpenMetrics.md); the text format 0.0.4, which the textfile collector
of node_exporter reads; names after OpenTelemetry's semantic conventions for `system.*` and `process.*`, as its Prometheus exporters
turn them into names; what they have no name for is ours: `leakline_*`.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Literal, NamedTuple

from leakline.model.live import ProcessView

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from leakline.model.live import View

MetricForm = Literal["openmetrics", "text"]
CONTENT_TYPES: dict[MetricForm, str] = {
    "openmetrics": "application/openmetrics-text; version=1.0.0; charset=utf-8",
    "text": "text/plain; version=0.0.4; charset=utf-8",
}
_LONGEST_LABEL = 200

Sample = tuple[dict[str, str], float | None]


class Family(NamedTuple):
    """One metric."""

    name: str
    kind: Literal["gauge", "counter"]
    unit: str
    """The last words of its name; empty where it has none."""
    help: str
    samples: Sequence[Sample]


def metrics(view: View, form: MetricForm, top: int, version: str) -> str:
    """A view as metrics.

    Args:
        view: the machine and its processes.
        form: which format.
        top: how many processes, and how many control groups, have metrics of their own: those that grow, then those that hold most.
        version: of leakline.

    """
    families = [
        *_machine(view),
        *_processes(most_telling(view.processes, top)),
        *_groups(view.processes, top),
        *_ours(view, version),
    ]
    text = "".join(_lines(family, form) for family in families if any(value is not None for _, value in family.samples))
    return text + ("# EOF\n" if form == "openmetrics" else "")


def most_telling(processes: Sequence[ProcessView], count: int) -> list[ProcessView]:
    """Those that are judged to grow or are at risk, then those that hold most; the rest is left out."""
    return sorted(processes, key=lambda one: (not one.accuses, not _at_risk(one), -(one.held or 0), one.key))[:count]


def _at_risk(process: ProcessView) -> bool:
    return process.trend is not None and process.trend.at_risk


def _machine(view: View) -> Iterator[Family]:
    machine = view.machine
    states = {"used": machine.used, "free": machine.free, "buffers": machine.buffers, "cached": machine.cached}
    yield Family(
        "system_memory_usage_bytes",
        "gauge",
        "bytes",
        "Memory by state; the states add up to the limit.",
        _by("system_memory_state", states),
    )
    yield Family("system_memory_limit_bytes", "gauge", "bytes", "MemTotal.", [({}, machine.total)])
    yield Family(
        "system_memory_linux_available_bytes", "gauge", "bytes", "MemAvailable: without swapping.", [({}, machine.available)]
    )
    yield Family(
        "system_memory_linux_slab_usage_bytes",
        "gauge",
        "bytes",
        "Slab caches that the kernel does not take back.",
        [({"system_memory_linux_slab_state": "unreclaimable"}, machine.unreclaimable)],
    )
    swap = {"used": machine.swap_used, "free": machine.swap_free}
    yield Family("system_paging_usage_bytes", "gauge", "bytes", "Swap by state.", _by("system_paging_state", swap))


def _by(label: str, values: Mapping[str, int | None]) -> list[Sample]:
    return [({label: name}, value) for name, value in values.items()]


def _processes(processes: Sequence[ProcessView]) -> Iterator[Family]:
    labelled = [(_labels(one), one) for one in processes]
    for name, help_text, field in (
        ("process_memory_usage_bytes", "Resident memory (RSS), shared pages counted in every process.", "rss"),
        ("leakline_process_unique_bytes", "Memory that would come back if the process ended (USS).", "uss"),
        ("leakline_process_proportional_bytes", "Memory with its share of shared pages (PSS).", "pss"),
        ("leakline_process_swap_bytes", "Memory that is swapped out.", "swap"),
        ("leakline_process_held_bytes", "USS + swap, which is what is judged.", "held"),
    ):
        yield Family(name, "gauge", "bytes", help_text, [(labels, getattr(one, field)) for labels, one in labelled])
    faults = [
        ({**labels, "system_paging_fault_type": kind}, value)
        for labels, one in labelled
        for kind, value in (("minor", one.minor_faults), ("major", one.major_faults))
    ]
    yield Family("process_paging_faults", "counter", "", "Page faults since the start of the process.", faults)
    judged = [(labels, one.trend) for labels, one in labelled if one.trend is not None]
    yield Family(
        "leakline_process_growth_verdict",
        "gauge",
        "",
        "1 for the verdict on what the process holds; see docs/commands/trend.md.",
        [({**labels, "verdict": trend.verdict}, 1) for labels, trend in judged],
    )
    yield Family(
        "leakline_process_growth_probability_ratio",
        "gauge",
        "ratio",
        "Probability of sustained growth.",
        [(labels, trend.probability) for labels, trend in judged],
    )
    yield Family(
        "leakline_process_growth_rate_bytes_per_second",
        "gauge",
        "bytes_per_second",
        "Rate of the growth, if it is sustained: the mean, and the ends of its 90 % interval.",
        [
            ({**labels, "estimate": estimate}, value)
            for labels, trend in judged
            for estimate, value in zip(
                ("mean", "low", "high"), (trend.rate_bytes_per_second, *(trend.rate_interval or (None, None))), strict=True
            )
        ],
    )
    yield Family(
        "leakline_process_at_risk",
        "gauge",
        "",
        "1 if the limit is reached within the horizon, if it goes on like this.",
        [(labels, int(trend.at_risk)) for labels, trend in judged],
    )
    yield Family(
        "leakline_process_limit_reached_seconds",
        "gauge",
        "seconds",
        "Time until the limit is reached, if it goes on like this.",
        [(labels, trend.limit_eta_seconds) for labels, trend in judged],
    )


def _labels(process: ProcessView) -> dict[str, str]:
    found = {
        "process_pid": None if process.pid is None else str(process.pid),
        "process_executable_name": process.command,
        "process_owner": process.user,
        "process_linux_cgroup": process.cgroup,
    }
    return {name: value[:_LONGEST_LABEL] for name, value in found.items() if value is not None}


def _groups(processes: Sequence[ProcessView], top: int) -> Iterator[Family]:
    """Control groups by the processes that are seen in them."""
    held: defaultdict[str, int] = defaultdict(int)
    counts: Counter[str] = Counter()
    growing: Counter[str] = Counter()
    for one in processes:
        if one.cgroup is not None:
            group = one.cgroup[:_LONGEST_LABEL]
            counts[group] += 1
            growing[group] += one.accuses
            held[group] += (one.pss or 0) + (one.swap or 0)
    chosen = sorted(counts, key=lambda group: (-growing[group], -held[group], group))[:top]
    yield Family(
        "leakline_cgroup_proportional_bytes",
        "gauge",
        "bytes",
        "PSS + swap of the processes in a control group that may be read.",
        [({"cgroup": group}, held[group]) for group in chosen],
    )
    yield Family(
        "leakline_cgroup_processes", "gauge", "", "Processes in a control group.", [({"cgroup": g}, counts[g]) for g in chosen]
    )
    yield Family(
        "leakline_cgroup_growing_processes",
        "gauge",
        "",
        "Processes in a control group that are judged to grow.",
        [({"cgroup": group}, growing[group]) for group in chosen],
    )


def _ours(view: View, version: str) -> Iterator[Family]:
    verdicts = Counter(one.trend.verdict for one in view.processes if one.trend is not None)
    yield Family(
        "leakline_processes",
        "gauge",
        "",
        "Processes by whether they may be read.",
        [({"state": "read"}, len(view.processes) - view.unreadable), ({"state": "unreadable"}, view.unreadable)],
    )
    yield Family(
        "leakline_verdicts",
        "gauge",
        "",
        "Processes by verdict, those without metrics of their own included.",
        [({"verdict": verdict}, count) for verdict, count in sorted(verdicts.items())],
    )
    yield Family(
        "leakline_last_look_timestamp_seconds", "gauge", "seconds", "When all this was seen, since 1970.", [({}, view.time)]
    )
    yield Family("leakline_build_info", "gauge", "", "The version of leakline.", [({"version": version}, 1)])


def _lines(family: Family, form: MetricForm) -> str:
    sample = f"{family.name}_total" if family.kind == "counter" else family.name
    announced = family.name if form == "openmetrics" else sample
    head = f"# HELP {announced} {family.help}\n# TYPE {announced} {family.kind}\n"
    if family.unit and form == "openmetrics":
        head += f"# UNIT {announced} {family.unit}\n"
    lines = [f"{sample}{_braced(labels)} {_number(value)}\n" for labels, value in family.samples if value is not None]
    return head + "".join(lines)


def _braced(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}" if labels else ""


def _escaped(value: str) -> str:
    """A name from outside as the value of a label; bytes that are no UTF-8, and control characters, as escapes."""
    safe = value.encode("utf-8", "backslashreplace").decode()
    safe = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in safe)
    return safe.replace("\\", "\\\\").replace('"', '\\"')


def _number(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    if math.isnan(value):
        return "NaN"
    return repr(float(value)) if math.isfinite(value) else ("+Inf" if value > 0 else "-Inf")
