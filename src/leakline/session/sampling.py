"""What a process holds, again and again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from leakline.model.series import UsageSample

if TYPE_CHECKING:
    from leakline.sources.procfs import ProcFs


def sample_usage(procfs: ProcFs, pid: int) -> UsageSample:
    """USS and swap of a process now."""
    usage = procfs.usage(pid)
    return UsageSample(time_ns=time.monotonic_ns(), uss=usage.uss, swap=usage.swap)
