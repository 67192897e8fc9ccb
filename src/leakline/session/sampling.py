"""Processes over time: who is there, and what each holds, at a cost that nobody notices.

A tick reads statm of each process through a folder that is held open. The sums over its mappings, for which the kernel walks its
page tables, are read only where statm has changed, where a relative has started or ended (shared pages become private then), or
where they are older than half a minute; and for no more than a fiftieth of a processor's time.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, Self

import msgspec

from leakline.errors import InvalidRequest, LeaklineError, ParseError
from leakline.model.recording import ProcessAmounts, ProcessIdentity, Tick
from leakline.model.series import UsageSample
from leakline.session.targets import ancestry
from leakline.sources.process_probe import ProcessProbe
from leakline.sources.procfs import ProcFs

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from leakline.sources.machine import Machine

OLDEST_SECONDS = 30.0
SHARE = 0.02
"""Of a processor's time, for the sums over mappings."""
_MOST_SAVED_SECONDS = 5.0
_LARGE_SECONDS = 0.004
"""Whoever takes longer to be read than this (from some 400 MiB on) has a budget apart: others do not wait for it."""
_YOUNG_LOOKS = 5
_AGAIN_LOOKS = 60
"""A process that was not chosen is looked at again: it may have been about to exec another program."""


def sample_usage(procfs: ProcFs, pid: int) -> UsageSample:
    """USS and swap of a process now."""
    usage = procfs.usage(pid)
    return UsageSample(time_ns=time.monotonic_ns(), uss=usage.uss, swap=usage.swap)


class Choice(NamedTuple):
    """Which processes are meant: those that one of these names."""

    pids: frozenset[int] = frozenset()
    name: re.Pattern[str] | None = None
    cgroup: str | None = None
    everything: bool = False
    children: bool = False
    """The descendants of all these too."""

    @classmethod
    def of(
        cls,
        pids: Collection[int],
        *,
        name: str | None = None,
        cgroup: str | None = None,
        everything: bool = False,
        children: bool = False,
    ) -> Self:
        """From what a person wrote.

        Raises:
            InvalidRequest: the expression is none.

        """
        try:
            pattern = None if name is None else re.compile(name)
        except re.error as error:
            raise InvalidRequest(f"--name {name!r} is not a regular expression: {error}") from error
        return cls(frozenset(pids), pattern, None if cgroup is None else "/" + cgroup.strip("/"), everything, children)

    @property
    def named(self) -> bool:
        """Whether it says which, by number or name: then there must be some."""
        return bool(self.pids) or self.name is not None

    @property
    def follows(self) -> bool:
        """Whether processes that start later can be meant."""
        return self.name is not None or self.cgroup is not None or self.everything or self.children

    def names(self, process: ProcessIdentity) -> bool:
        """Whether it names this one, parents aside."""
        if self.everything or process.pid in self.pids:
            return True
        if self.name is not None:
            program = os.path.basename((process.cmdline or "").split(" ", 1)[0])
            if self.name.search(process.command) or self.name.search(program):
                return True
        if self.cgroup is None or process.cgroup is None:
            return False
        return process.cgroup == self.cgroup or process.cgroup.startswith(self.cgroup.rstrip("/") + "/")


class Sampled(msgspec.Struct):
    """A process that is looked at."""

    identity: ProcessIdentity
    folder: int
    statm: bytes = b""
    amounts: ProcessAmounts | None = None
    read_at: float = 0.0
    fresh: bool = False
    """Whether the amounts are of this tick."""
    suspect: bool = True
    """Whether they may have changed since."""
    reads: int = 0
    cost: float = 0.0
    """Seconds of CPU time that the last read took."""


class Look(NamedTuple):
    """One tick."""

    tick: Tick
    processes: Sequence[Sampled]
    began: Sequence[Sampled]
    ended: Sequence[ProcessIdentity]
    refused: str | None
    """Why a process that was chosen could not be looked at."""


class Sampler:
    """Looks at processes again and again.

    Args:
        machine: the live one.
        choice: which.
        share: of the time, for the sums over mappings.

    """

    def __init__(self, machine: Machine, choice: Choice, share: float = SHARE) -> None:
        self._choice = choice
        self._share = share
        self._probe = ProcessProbe(machine)
        self._held: dict[int, Sampled] = {}
        self._others: dict[int, int] = {}
        # `leakline --name x` in a shell's command line does not make the shell an x.
        ours = ancestry(ProcFs(machine.proc)) if choice.name is not None and not choice.everything else {os.getpid()}
        self._ours = ours - choice.pids
        self._looked = False
        self._refused: str | None = None
        self._credit = self._large_credit = 0.0
        self._last = 0.0
        _allow_many_files()

    def close(self) -> None:
        """Let go of all folders."""
        for sampled in self._held.values():
            os.close(sampled.folder)
        self._held.clear()
        self._probe.close()

    def tick(self) -> Look:
        """Look once."""
        now = time.monotonic()
        self._earn(now - self._last)
        self._last = now
        ended: list[ProcessIdentity] = []
        for sampled in list(self._held.values()):
            self._check(sampled, now, ended)
        began = self._discover() if self._choice.follows or not self._looked else []
        self._looked = True
        self._suspect_relatives(began, ended)
        for sampled in began:
            self._check(sampled, now, ended)
        due = [sampled for sampled in self._held.values() if sampled.suspect]
        due.sort(key=lambda sampled: sampled.read_at)
        for sampled in due:
            if sampled.amounts is None or (self._large_credit if sampled.cost > _LARGE_SECONDS else self._credit) > 0:
                self._read(sampled, now, ended)
        there = [sampled for sampled in self._held.values() if sampled.amounts is not None]
        tick = Tick(
            time=time.time(),
            boottime=time.clock_gettime(time.CLOCK_BOOTTIME),
            fresh=sum(sampled.fresh for sampled in there),
            oldest=max((now - sampled.read_at for sampled in there), default=0.0),
        )
        return Look(tick, there, [sampled for sampled in began if sampled.amounts is not None], ended, self._refused)

    def _earn(self, seconds: float) -> None:
        """Half of the budget is for those that take long to be read, where there are any."""
        half = self._share / 2
        rest = half if any(sampled.cost > _LARGE_SECONDS for sampled in self._held.values()) else self._share
        # To read all of them at the start, or many that were started at once, does not make the others wait for long.
        self._credit = min(max(self._credit, -rest * _MOST_SAVED_SECONDS) + rest * seconds, rest * _MOST_SAVED_SECONDS)
        self._large_credit = min(self._large_credit + half * seconds, half * _MOST_SAVED_SECONDS)

    def _check(self, sampled: Sampled, now: float, ended: list[ProcessIdentity]) -> None:
        sampled.fresh = False
        try:
            statm = self._probe.statm(sampled.folder)
        except (FileNotFoundError, ProcessLookupError):
            statm = b""
        except OSError as error:
            self._refused = _why(sampled.identity.pid, error)
            return
        if not statm:
            self._drop(sampled, ended)
            return
        if statm != sampled.statm or now - sampled.read_at >= OLDEST_SECONDS:
            sampled.statm, sampled.suspect = statm, True

    def _drop(self, sampled: Sampled, ended: list[ProcessIdentity]) -> None:
        os.close(sampled.folder)
        del self._held[sampled.identity.pid]
        ended.append(sampled.identity)

    def _read(self, sampled: Sampled, now: float, ended: list[ProcessIdentity]) -> None:
        began = time.thread_time()
        try:
            command, sampled.amounts = self._probe.amounts(sampled.folder)
            if command != sampled.identity.command or sampled.reads < _YOUNG_LOOKS:
                # It called exec; or was caught between fork and exec, or before it was moved to its control group.
                sampled.identity = self._probe.identify(sampled.folder) or sampled.identity
        except (FileNotFoundError, ProcessLookupError, ParseError):
            self._drop(sampled, ended)
            return
        except OSError as error:
            self._refused = _why(sampled.identity.pid, error)
            return
        sampled.reads += 1
        sampled.cost = time.thread_time() - began
        if sampled.cost > _LARGE_SECONDS:
            self._large_credit -= sampled.cost
        else:
            self._credit -= sampled.cost
        sampled.read_at, sampled.fresh, sampled.suspect = now, True, False

    def _discover(self) -> list[Sampled]:
        listed = self._probe.pids()
        for pid in self._others.keys() - listed:
            del self._others[pid]
        fresh = []
        for pid in sorted(listed - self._held.keys() - self._ours):
            looks = self._others.get(pid, 0)
            self._others[pid] = looks + 1
            if looks >= _YOUNG_LOOKS and looks % _AGAIN_LOOKS:
                continue
            found = self._opened(pid)
            if found is not None:
                fresh.append(found)
        return fresh

    def _opened(self, pid: int) -> Sampled | None:
        try:
            folder = self._probe.open(pid)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return None
        except OSError as error:
            self._refused = _why(pid, error)
            return None
        identity = None
        with suppress(OSError, LeaklineError):
            identity = self._probe.identify(folder)
        if identity is None or not (self._choice.names(identity) or (self._choice.children and identity.ppid in self._held)):
            os.close(folder)
            return None
        self._others.pop(pid, None)
        sampled = self._held[pid] = Sampled(identity, folder)
        return sampled

    def _suspect_relatives(self, began: Sequence[Sampled], ended: Sequence[ProcessIdentity]) -> None:
        """What fork shares becomes private when the other one ends, and the other way round: USS jumps, statm stays."""
        parents = {sampled.identity.ppid for sampled in began} | {identity.ppid for identity in ended}
        if not parents:
            return
        kin = parents | {identity.pid for identity in ended}
        for sampled in self._held.values():
            identity = sampled.identity
            if identity.pid in parents or (identity.ppid in kin and identity.ppid > 1):
                sampled.suspect = True


def _why(pid: int, error: OSError) -> str:
    more = "; `ulimit -n` allows more" if error.errno == errno.EMFILE else ""
    return f"process {pid}, and maybe others: {error.strerror}{more}"


def _allow_many_files() -> None:
    """Each process takes a descriptor: use what the hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
