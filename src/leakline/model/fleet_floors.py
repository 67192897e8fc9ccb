"""What the judgement of a fleet rests on: floors of blocks of equal time, whoever made them, and the samples of a few series."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BLOCKS = 26
"""24, and two at the start that are left out: starting up is no trend."""


class Window(NamedTuple):
    """Blocks of equal time; each holds its first moment, and not its last."""

    start: float
    """Seconds since 1970, in whole milliseconds."""
    width_ms: int
    blocks: int = BLOCKS

    @classmethod
    def until(cls, end: float, seconds: float) -> Self:
        """One that ends there and is about so long: a whole number of milliseconds a block."""
        width = max(1, round(seconds * 1000 / BLOCKS))
        return cls((round(end * 1000) - width * BLOCKS) / 1000, width)

    @property
    def length_ms(self) -> int:
        """All of it, in milliseconds."""
        return self.width_ms * self.blocks

    @property
    def end(self) -> float:
        """Seconds since 1970."""
        return round(self.start * 1000 + self.length_ms) / 1000

    @property
    def width(self) -> float:
        """Of a block, in seconds."""
        return self.width_ms / 1000


class FloorBatch(NamedTuple):
    """The floors of some series: what a quarter of the samples of each block do not exceed, between samples by a straight line."""

    numbers: NDArray[np.int64]
    """Which series."""
    floors: NDArray[np.float64]
    """(series, blocks) in bytes; NaN for a block without samples."""


class RawSeries(NamedTuple):
    """All samples of a series in a window."""

    number: int
    times: NDArray[np.float64]
    """Seconds since 1970, rising."""
    values: NDArray[np.float64]
    """Bytes; NaN where unknown."""
