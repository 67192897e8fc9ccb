"""leakline: from "memory keeps rising" to the source line that leaks.

    >>> import leakline
    >>> reports = leakline.diagnose([1234])        # doctest: +SKIP
    >>> reports[0].findings[0].location.line       # doctest: +SKIP
    6

What is in `__all__` is promised; everything else may change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["Finding", "LeaklineError", "Report", "__version__", "diagnose", "scan"]

if TYPE_CHECKING:
    from leakline.errors import LeaklineError
    from leakline.model.finding import Finding, Report
    from leakline.session.api import diagnose, scan

_HOMES = {
    "Finding": "leakline.model.finding",
    "LeaklineError": "leakline.errors",
    "Report": "leakline.model.finding",
    "diagnose": "leakline.session.api",
    "scan": "leakline.session.api",
}


def __getattr__(name: str) -> object:
    """Load the public names when they are used: `import leakline` itself costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
