"""Series that come and go, joined into the services that stay: a restart or another pod's name is an epoch, not another service.

Which labels tell what is a rule, not a guess that nobody sees: docs/commands/fleet.md has it in words.
"""

from __future__ import annotations

import heapq
import re
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from leakline.analysis.floors import Floats

_CHURN = frozenset(
    {
        *("id", "name", "uid", "pod_uid", "epoch", "container_id", "image", "image_id", "pid", "process_pid", "pod_template_hash"),
        *("controller_revision_hash", "__name__"),
    }
)
"""Other after each restart, or at each rollout."""
_PLACES = frozenset({"instance", "host", "hostname", "node", "nodename", "kubernetes_node", "exported_instance", "pod_ip"})
"""Tell the instances of a service apart, and stay where these are started anew."""
_PODS = ("pod", "pod_name", "kubernetes_pod_name", "exported_pod")
# Names that Kubernetes' controllers make (apimachinery/pkg/util/rand: letters and digits that spell no words).
_SAFE = "[bcdfghjklmnpqrstvwxz2456789]"
_OF_DEPLOYMENT = re.compile(rf"(?P<workload>.+)-{_SAFE}{{6,10}}-{_SAFE}{{5}}")
_OF_JOB = re.compile(r"(?P<workload>.+)-\d{8,10}-[a-z0-9]{5}")
_OF_STATEFUL_SET = re.compile(r"(?P<workload>.+)-(?P<ordinal>\d{1,4})")
_OF_DAEMON_SET = re.compile(rf"(?P<workload>.+)-{_SAFE}{{5}}")
_TAG = re.compile(r":(?P<tag>[\w][\w.-]{0,127})$")
_DIGEST = re.compile(r"@sha256:(?P<digest>[0-9a-f]{12})[0-9a-f]*$")


class Run(NamedTuple):
    """One series: a service between two restarts."""

    number: int
    """Of the series."""
    release: str | None
    first: int
    """Its first block that is not empty, and its last one."""
    last: int


class Service(NamedTuple):
    """One instance of a service, through its restarts."""

    group: str
    """What is rolled out together."""
    name: str
    labels: dict[str, str]
    runs: tuple[Run, ...]
    """In order of time; none begins before the one before has ended."""


class _Identity(NamedTuple):
    group: tuple[tuple[str, str], ...]
    place: tuple[tuple[str, str], ...]
    release: str | None


def join(
    series: Sequence[Mapping[str, str]], floors: Floats, release: Sequence[str], by: Sequence[str] | None = None
) -> list[Service]:
    """The services that series are of.

    Args:
        series: the labels of each.
        floors: (series, blocks), NaN for blocks without samples; series without any are left out.
        release: labels that name a release.
        by: the labels that tell services apart; None for all that neither change at a restart nor name a place.

    """
    known = ~np.isnan(floors)
    lanes: dict[tuple[tuple[tuple[str, str], ...], ...], list[tuple[_Identity, Run]]] = defaultdict(list)
    firsts = known.argmax(axis=1).tolist()
    lasts = (floors.shape[1] - 1 - known[:, ::-1].argmax(axis=1)).tolist()
    for number in np.flatnonzero(known.any(axis=1)).tolist():
        identity = _identity(series[number], release, by)
        run = Run(number, identity.release, firsts[number], lasts[number])
        lanes[identity.group, identity.place].append((identity, run))
    found = []
    for (group, place), members in lanes.items():
        chains = _chains([run for _, run in members])
        for position, runs in enumerate(chains, 1):
            labels = dict([*group, *place])
            name = ", ".join(value for value in labels.values() if value) or "-"
            title = ", ".join(value for _, value in group if value) or "-"
            found.append(Service(title, f"{name} #{position}" if len(chains) > 1 else name, labels, tuple(runs)))
    return found


def _chains(runs: Sequence[Run]) -> list[list[Run]]:
    """A run takes the place of one that has ended before, the one that ended first."""
    chains: list[list[Run]] = []
    ended: list[tuple[int, int]] = []
    for run in sorted(runs, key=lambda run: (run.first, run.last, run.number)):
        if ended and ended[0][0] <= run.first:
            _, place = heapq.heappop(ended)
            chains[place].append(run)
        else:
            place = len(chains)
            chains.append([run])
        heapq.heappush(ended, (run.last, place))
    return chains


def _identity(labels: Mapping[str, str], release: Sequence[str], by: Sequence[str] | None) -> _Identity:
    named = [labels[name] for name in release if labels.get(name)]
    if not named and labels.get("image"):
        named = [_release_of_image(labels["image"])]
    if by is not None:
        return _Identity(tuple((name, labels.get(name, "")) for name in by), (), " ".join(named) or None)
    group, place = [], []
    pod = next((name for name in _PODS if labels.get(name)), None)
    for name, value in sorted(labels.items()):
        if name in _CHURN or name in release or not value:
            continue
        if name == pod:
            workload, ordinal = _workload(value)
            group.append(("workload", workload))
            if ordinal is not None:
                place.append((name, value))
        elif name in _PLACES:
            # A pod's address changes with the pod; a pod of a daemon stays on its node, but its name does not.
            if pod is None:
                place.append((name, value))
        elif name not in _PODS:
            group.append((name, value))
    return _Identity(tuple(group), tuple(place), " ".join(named) or None)


def _workload(pod: str) -> tuple[str, str | None]:
    """What a pod belongs to, and its number there where that stays."""
    for pattern in (_OF_JOB, _OF_DEPLOYMENT):
        found = pattern.fullmatch(pod)
        if found is not None:
            return found["workload"], None
    found = _OF_STATEFUL_SET.fullmatch(pod)
    if found is not None:
        return found["workload"], found["ordinal"]
    found = _OF_DAEMON_SET.fullmatch(pod)
    return (pod, None) if found is None else (found["workload"], None)


def _release_of_image(image: str) -> str:
    found = _TAG.search(image.partition("@")[0])
    if found is not None:
        return found["tag"]
    found = _DIGEST.search(image)
    return image if found is None else found["digest"]
