"""Blocks that can still be reached and become more, by the stack that allocates them."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence

from leakline.analysis.fingerprint import fingerprint
from leakline.analysis.locating import answering_frame
from leakline.model.finding import Evidence, Finding, Subject
from leakline.model.stack import Frame
from leakline.model.trend import Series, SeriesTrend

_MOST_LOOKS = 256
_MOST_JUDGED = 500
_LEAST_LOOKS = 3


class SiteHistory:
    """Bytes that each site holds, look by look. Of many looks every second one is forgotten, again and again."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._held: dict[int, array[float]] = {}

    def add(self, seconds: float, held: Mapping[int, int]) -> None:
        """A look: what is held by site. Site 0 stands for blocks of which nothing is known."""
        if len(self.times) == _MOST_LOOKS:
            self.times = self.times[1::2]
            self._held = {site: values[1::2] for site, values in self._held.items()}
        for site in held.keys() - self._held.keys() - {0}:
            self._held[site] = array("d", bytes(8 * len(self.times)))
        self.times.append(seconds)
        for site, values in self._held.items():
            values.append(held.get(site, 0))

    def risen(self) -> dict[int, Series]:
        """The sites that hold more than at first, those that grew most."""
        rise = {site: values[-1] - values[0] for site, values in self._held.items() if values[-1] > values[0]}
        sites = sorted(rise, key=lambda site: -rise[site])[:_MOST_JUDGED]
        times = tuple(time - self.times[0] for time in self.times)
        return {site: Series(name=f"site {site}", times=times, values=tuple(self._held[site])) for site in sites}


def growing_sites(history: SiteHistory) -> dict[int, tuple[Series, SeriesTrend]]:
    """The sites that are judged to grow; with too few looks for that, those that held more at every look."""
    if len(history.times) < _LEAST_LOOKS:
        return {}
    from leakline.analysis.trend import judge  # brings numpy

    risen = history.risen()
    found = {}
    for (site, series), trend in zip(risen.items(), judge(list(risen.values())) if risen else [], strict=True):
        rose = all(after > before for before, after in zip(series.values, series.values[1:], strict=False))
        if trend.accuses or (trend.verdict == "INSUFFICIENT" and rose):
            found[site] = series, trend
    return found


def growing_site_finding(series: Series, trend: SeriesTrend, stack: Sequence[Frame]) -> Finding:
    """A site that grows, in words."""
    answer = answering_frame(tuple(stack))
    first, last = int(series.values[0]), int(series.values[-1])
    judged = "more at every look, too few looks to judge" if trend.verdict == "INSUFFICIENT" else trend.verdict
    text = (
        f"{first:,} reachable bytes at first, {last:,} at last, {trend.samples} looks in {trend.duration_seconds:.0f} s: {judged}"
    )
    values: dict[str, int | float | str] = {"looks": trend.samples, "bytes": last, "verdict": trend.verdict}
    if trend.probability is not None:
        values["probability"] = trend.probability
    return Finding(
        kind="growing",
        subject=Subject(type="heap", name="[heap]"),
        bytes=last - first,
        blocks=0,
        indirect_bytes=0,
        indirect_blocks=0,
        rate_bytes_per_second=trend.rate_bytes_per_second,
        rate_interval=trend.rate_interval,
        confidence="medium" if trend.verdict == "LEAK" else "low",
        fingerprint=fingerprint("growing", tuple(stack), None, None),
        location=None if answer is None else stack[answer].location,
        location_is=None if answer is None else "recorded",
        stack=tuple(stack),
        evidence=(Evidence(method="trend", text=text, values=values),),
    )
