"""leakline: from "memory keeps rising" to the source line that leaks.

    >>> import leakline
    >>> table = leakline.processes()               # what everybody holds
    >>> mappings = leakline.Process(1234).maps()   # doctest: +SKIP
    >>> reports = leakline.diagnose([1234])        # doctest: +SKIP
    >>> reports[0].findings[0].location.line       # doctest: +SKIP
    6

What is in `__all__` is promised; everything else may change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = [
    "DiffReport",
    "FaultReport",
    "Finding",
    "KernelReport",
    "LeaklineError",
    "Process",
    "ProcessMemory",
    "ProcessTable",
    "Report",
    "SystemTable",
    "VmaMemory",
    "__version__",
    "compare_reports",
    "diagnose",
    "explain_core",
    "faults",
    "kernel_memory",
    "locate_kernel_leaks",
    "processes",
    "read_reports",
    "scan",
    "scan_file",
    "system_memory",
]

if TYPE_CHECKING:
    from leakline.errors import LeaklineError
    from leakline.model.accounting import ProcessMemory, ProcessTable
    from leakline.model.diff import DiffReport
    from leakline.model.faults import FaultReport
    from leakline.model.finding import Finding, Report
    from leakline.model.kernel import KernelReport
    from leakline.model.mappings import VmaMemory
    from leakline.model.system import SystemTable
    from leakline.session.api import (
        Process,
        compare_reports,
        diagnose,
        explain_core,
        faults,
        kernel_memory,
        locate_kernel_leaks,
        processes,
        read_reports,
        scan,
        scan_file,
        system_memory,
    )

_HOMES = {
    "DiffReport": "leakline.model.diff",
    "FaultReport": "leakline.model.faults",
    "Finding": "leakline.model.finding",
    "KernelReport": "leakline.model.kernel",
    "LeaklineError": "leakline.errors",
    "Process": "leakline.session.api",
    "ProcessMemory": "leakline.model.accounting",
    "ProcessTable": "leakline.model.accounting",
    "Report": "leakline.model.finding",
    "SystemTable": "leakline.model.system",
    "VmaMemory": "leakline.model.mappings",
    "compare_reports": "leakline.session.api",
    "diagnose": "leakline.session.api",
    "explain_core": "leakline.session.api",
    "faults": "leakline.session.api",
    "kernel_memory": "leakline.session.api",
    "locate_kernel_leaks": "leakline.session.api",
    "processes": "leakline.session.api",
    "read_reports": "leakline.session.api",
    "scan": "leakline.session.api",
    "scan_file": "leakline.session.api",
    "system_memory": "leakline.session.api",
}


def __getattr__(name: str) -> object:
    """Load the public names when they are used: `import leakline` itself costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
