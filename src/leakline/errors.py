"""The one tree of errors. Each has a hint, which is the reader's next step, and the exit code of the command that fails by it.

LeaklineError           70  a bug of ours, when nothing below fits
├── InvalidRequest       2  the request makes no sense as it stands
├── PermissionNeeded     3  the kernel said no
├── TargetGone           4  no such process, or it ended while we looked
├── NotPossible          5  not on this kernel, host or target
│   ├── NotSupported     5  a target that leakline cannot read yet
│   └── PauseTooLong     5  the target would stand still for longer than is allowed
└── ParseError           6  a file that is not what it should be
"""

from __future__ import annotations

from typing import ClassVar


class LeaklineError(Exception):
    """Something that leakline can explain: a message, and a hint with the next step."""

    exit_code: ClassVar[int] = 70
    default_hint: ClassVar[str] = "This is a bug in leakline: please report it with the command that shows it."

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.default_hint


class InvalidRequest(LeaklineError):
    """The request makes no sense as it stands."""

    exit_code = 2
    default_hint = "`leakline COMMAND --help` shows what it takes."


class PermissionNeeded(LeaklineError):
    """The kernel did not let us look."""

    exit_code = 3
    default_hint = (
        "Run as root, or as the owner of the process; CAP_SYS_PTRACE would do too. `leakline doctor` shows what works here."
    )


class TargetGone(LeaklineError):
    """There is no such process, or it ended while we looked."""

    exit_code = 4
    default_hint = "Check the PID, or select the process with --name."


class NotPossible(LeaklineError):
    """This kernel, this host or this target does not allow it."""

    exit_code = 5
    default_hint = "`leakline doctor` shows what works here and how to get the rest."


class PauseTooLong(NotPossible):
    """The target would stand still, or stood still, for longer than is allowed; it was let go."""

    default_hint = "Allow a longer --max-pause, or scan with --no-stop."


class NotSupported(NotPossible):
    """The target is of a kind that leakline cannot read yet; better no answer than a wrong one."""


class ParseError(LeaklineError):
    """A file does not have the form that it should have."""

    exit_code = 6
    default_hint = "The file is damaged, cut short, or of another kind than its name says."
