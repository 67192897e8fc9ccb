"""Options that name processes, of all commands that look into some."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from leakline.sources.procfs import ProcFs

F = TypeVar("F", bound="Callable[..., Any]")


class Targets(NamedTuple):
    """The processes that one of these names."""

    pids: tuple[int, ...]
    name: str | None
    user: str | None
    cgroup: str | None

    def __bool__(self) -> bool:
        """Whether anything was named."""
        return bool(self.pids or self.name is not None or self.user or self.cgroup)

    def select(self, procfs: ProcFs) -> list[int]:
        """Their numbers.

        Raises:
            InvalidRequest: nothing was named.
            TargetGone: there are none.

        """
        from leakline.session.targets import select

        return select(procfs, list(self.pids), self.name, user=self.user, cgroup=self.cgroup)


def process_options(function: F) -> F:
    """PID..., -p/--pid, --name."""
    for option in (
        click.option("--name", metavar="REGEX", help="Processes whose command or program name this finds."),
        click.option("-p", "--pid", "more_pids", type=click.IntRange(1), multiple=True, help="A process; may be repeated."),
        click.argument("pids", nargs=-1, type=click.IntRange(1), metavar="[PID]..."),
    ):
        function = option(function)
    return function


def target_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """PID..., -p/--pid, --name, -u/--user, --cgroup; the command gets them as `targets`."""

    @functools.wraps(function)
    def call(
        *args: Any,  # noqa: ANN401
        pids: tuple[int, ...],
        more_pids: tuple[int, ...],
        name: str | None,
        user: str | None,
        cgroup: str | None,
        **rest: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        return function(*args, targets=Targets((*pids, *more_pids), name, user, cgroup), **rest)

    of_cgroup = "Processes in this control group, and in those below it: a container's or a service's."
    decorated = click.option("--cgroup", metavar="PATH", help=of_cgroup)(call)
    decorated = click.option("-u", "--user", metavar="NAME", help="Processes of this user.")(decorated)
    return process_options(decorated)
