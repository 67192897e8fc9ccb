from __future__ import annotations

import leakline
from leakline import errors
from leakline.errors import LeaklineError


def test_every_error_has_a_hint_and_a_documented_exit_code() -> None:
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, LeaklineError)]
    assert len(classes) >= 7
    for error in classes:
        assert error.default_hint
        assert error.exit_code in (2, 3, 4, 5, 6, 70)
        assert error.__name__ in (errors.__doc__ or "")


def test_the_public_names_are_these() -> None:
    assert leakline.__all__ == [
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
    for name in leakline.__all__:
        assert getattr(leakline, name) is not None
    assert dir(leakline) == leakline.__all__
