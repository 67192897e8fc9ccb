"""Folded stacks: `process;kind;main;load;alloc 4096`, as flamegraph.pl and its kin read them.

https://github.com/brendangregg/FlameGraph: frames from the outermost on, parted by semicolons, the weight behind the last blank,
and `_[i]` at what was inlined.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from leakline.model.finding import Report
from leakline.present.export.samples import frame_name, samples, without_stack


def to_folded(reports: Sequence[Report]) -> str:
    """A line for each stack, with its bytes; what hangs on the blocks is counted in."""
    weights: Counter[str] = Counter()
    for sample in samples(reports):
        finding = sample.finding
        frames = [frame_name(frame) + ("_[i]" if frame.inlined else "") for frame in reversed(finding.stack)]
        line = [sample.process, sample.kind, *(frames or [without_stack(finding)])]
        weights[";".join(part.replace(";", ":") for part in line)] += sample.bytes
    return "".join(f"{stack} {weight}\n" for stack, weight in weights.items() if weight > 0)
