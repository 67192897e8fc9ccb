"""From a counter of the kernel that grows to the line that allocates it, by the best source that this kernel has."""

from __future__ import annotations

import os
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from leakline.analysis.kernel_sites import answering_call, grown_sites, growth_findings, lost_findings
from leakline.errors import NotPossible, PermissionNeeded
from leakline.formats.kmemleak import parse_kmemleak
from leakline.model.finding import Cost, KindTotal, NotJudged, Report, RetainedFree, Summary
from leakline.session.kernel_sampling import KernelSampler, Part
from leakline.session.kernel_tracing import trace_kernel
from leakline.sources.allocinfo import parse_allocinfo
from leakline.sources.kernel_files import KernelFiles, kmemleak_is_on
from leakline.sources.kmem_events import require_tracepoints
from leakline.sources.page_owner import parse_page_owner, parse_show_stacks
from leakline.sources.slab_traces import parse_slab_traces
from leakline.symbols.kernel_lines import KernelLines

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from leakline.model.finding import Finding
    from leakline.model.kernel import AllocationSite
    from leakline.model.kmemleak import UnreferencedObject
    from leakline.session.interruption import Interruption
    from leakline.sources.machine import Machine

    Say = Callable[[str], None]

Source = Literal["auto", "allocinfo", "page-owner", "slab-traces", "kmemleak", "tracepoints"]
_ORDER: tuple[Source, ...] = ("allocinfo", "page-owner", "slab-traces", "kmemleak", "tracepoints")
_MOST_FINDINGS = 50
_SLAB_ONLY: tuple[Part, ...] = ("slab",)
_MOST_SUSPECTS = 6
_SUSPECT_SECONDS, _STEADY = 0.25, 0.7
"""Caches that grow from look to look come before those that jump: programs start and end all the time."""
_KMEMLEAK_AGE_SECONDS = 6.0
"""kmemleak does not report objects that are younger than 5 s (mm/kmemleak.c, MSECS_MIN_AGE)."""
_KMEMLEAK_OFF = "Boot with kmemleak=on; once it has run out of memory it stays off."


class Asked:
    """What is to be located, and with what."""

    def __init__(self, machine: Machine, counter: str | None, duration: float, interruption: Interruption, say: Say) -> None:
        self.machine, self.counter, self.duration = machine, counter, duration
        self.interruption, self.say = interruption, say

    def suspects(self, seconds: float) -> list[tuple[str, int]]:
        """Slab caches that grow, the most first, with the size of an object: the one that was named, or those that are seen to."""
        sampler = KernelSampler(self.machine, _SLAB_ONLY)
        looks = [sampler.look()]
        if "slabinfo" in sampler.unreadable:
            raise PermissionNeeded(sampler.unreadable["slabinfo"], hint="Run as root.")
        if self.counter is not None:
            name = self.counter.removeprefix("slab:")
            found = [(c.name, c.object_size) for c in sampler.slabs if c.name == name or name in sampler.aliases.get(c.name, ())]
            if not found:
                raise NotPossible(f"there is no slab cache {name}", hint="`leakline kernel --slab` lists them.")
            return found[:1]
        self.say(f"watching the slab caches for {seconds:.1f} s to see which grow")
        looks += [sampler.look() for _ in self.interruption.ticks(_SUSPECT_SECONDS, seconds)][1:]
        grown = []
        for cache in sampler.slabs:
            counts = [look.objects.get(f"slab:{cache.name}", 0) for look in looks]
            steady = sum(a < b for a, b in pairwise(counts)) > _STEADY * (len(counts) - 1)
            if counts[-1] > counts[0]:
                grown.append(
                    (cache, (sampler.is_reclaimable(cache.name), not steady, (counts[0] - counts[-1]) * cache.object_size))
                )
        grown.sort(key=lambda pair: pair[1])
        return [(cache.name, cache.object_size) for cache, _ in grown[:_MOST_SUSPECTS]]


class _Found:
    """What a source has to say."""

    def __init__(self, findings: Sequence[Finding], blind: Sequence[NotJudged], definite: KindTotal | None = None) -> None:
        self.findings, self.blind, self.definite = findings, blind, definite


class _Way(Protocol):
    def __call__(self, asked: Asked) -> _Found: ...


def locate_leaks(
    machine: Machine, source: Source, counter: str | None, duration: float, interruption: Interruption, say: Say
) -> Report:
    """Findings about the kernel: places that hold more at the end than at the beginning, or that nothing points to any more.

    Args:
        machine: the live one.
        source: what to ask; `auto` asks one after the other until one has an answer.
        counter: slab:CACHE or pages; None for whatever grows.
        duration: seconds to look, of each source that is asked.
        interruption: the first Ctrl-C ends the look.
        say: hears what is done.

    Raises:
        PermissionNeeded: it takes root.
        NotPossible: this kernel has none of what was asked for; the message says what it takes.

    """
    began = time.monotonic_ns()
    asked = Asked(machine, counter, duration, interruption, say)
    if source != "auto":
        return _report(asked, _WAYS[source](asked), began)
    refused: list[NotJudged] = []
    last: _Found | None = None
    forbidden = False
    for name in _ORDER:
        if not _sees(name, counter):
            continue
        try:
            found = _WAYS[name](asked)
        except (NotPossible, PermissionNeeded) as error:
            forbidden = forbidden or isinstance(error, PermissionNeeded)
            refused.append(NotJudged(name=name, bytes=None, share=None, why=f"{error.message}. {error.hint}"))
            continue
        last = _Found(found.findings, [*found.blind, *refused], found.definite)
        if found.findings or interruption.asked:
            break
        say(f"{name} saw nothing grow")
    if last is None:
        if forbidden:
            raise PermissionNeeded("no permission to ask the kernel who allocates", hint="Run as root.")
        reasons = "; ".join(f"{gap.name}: {gap.why}" for gap in refused)
        raise NotPossible(f"no source tells who allocates: {reasons}", hint="`leakline doctor` says how to get each.")
    return _report(asked, last, began)


def _sees(source: Source, counter: str | None) -> bool:
    """Whether a source can see into a counter."""
    if counter is None:
        return True
    if counter in ("pages", "unexplained"):
        return source in ("allocinfo", "page-owner", "tracepoints")
    return source != "page-owner"


def _with_lines(asked: Asked, findings: Sequence[Finding]) -> list[Finding]:
    """The same with lines, where debug information of this kernel is installed."""
    lines = KernelLines(asked.machine.sys, os.uname().release)
    stacks = lines.add_lines(finding.stack for finding in findings)
    better = []
    for finding in findings:
        stack = stacks[finding.stack]
        at = answering_call(stack)
        where = finding.location if at is None else stack[at].location
        better.append(finding if stack == finding.stack else msgspec.structs.replace(finding, stack=stack, location=where))
    return better


def _report(asked: Asked, found: _Found, began_ns: int) -> Report:
    return Report(
        target=None,
        bytes_are="usable",
        summary=Summary(definite=found.definite, indirect=None, possible=None, reachable=None),
        findings=tuple(_with_lines(asked, found.findings)),
        retained_free=RetainedFree(bytes=None),
        not_judged=tuple(found.blind),
        cost=Cost(target_stopped_ns=0, duration_ns=time.monotonic_ns() - began_ns),
    )


def _blind(source: str, *whys: str) -> list[NotJudged]:
    return [NotJudged(name=source, bytes=None, share=None, why=why) for why in whys]


def _looks(asked: Asked, read: Callable[[], Sequence[AllocationSite]], many: int) -> list[tuple[float, Sequence[AllocationSite]]]:
    """Looks that are spread over the duration; fewer where one takes long."""
    seconds = max(asked.duration, 0.1)
    found = [(time.monotonic(), read()) for _ in asked.interruption.ticks(seconds / (many - 1), seconds)]
    if len(found) < 2 and not asked.interruption.asked:
        found.append((time.monotonic(), read()))
    return found


def _grown(method: str, looks: Sequence[tuple[float, Sequence[AllocationSite]]]) -> list[Finding]:
    return growth_findings(grown_sites(looks), method, looks[-1][0] - looks[0][0], _MOST_FINDINGS)


def _by_allocinfo(asked: Asked) -> _Found:
    path = asked.machine.proc / "allocinfo"
    try:
        parse_allocinfo(path.read_bytes())
    except PermissionError as error:
        raise PermissionNeeded("no permission to read /proc/allocinfo", hint="Run as root.") from error
    except OSError as error:
        raise NotPossible(
            "this kernel does not count allocations by line",
            hint="It takes Linux 6.10 with CONFIG_MEM_ALLOC_PROFILING, and sysctl.vm.mem_profiling=1 at boot.",
        ) from error
    asked.say(f"allocinfo: every line of the kernel that holds memory, for {asked.duration:g} s")
    looks = _looks(asked, lambda: parse_allocinfo(path.read_bytes()), 8)
    return _Found(
        _grown("allocinfo", looks),
        _blind(
            "allocinfo",
            "it counts exactly, by line, but not whether what is held can still be reached: growth, not loss",
            "per-CPU memory is counted once instead of once for each CPU; slub_debug makes objects larger",
        ),
    )


def _by_page_owner(asked: Asked) -> _Found:
    size = asked.machine.page_size
    with KernelFiles("debugfs") as files:
        summed = files.exists("page_owner_stacks/show_stacks")
        if not summed and not files.exists("page_owner"):
            raise NotPossible(
                "this kernel does not keep who allocated its pages", hint="It takes CONFIG_PAGE_OWNER, and page_owner=on at boot."
            )

        def read() -> Sequence[AllocationSite]:
            if summed:
                return parse_show_stacks(files.read("page_owner_stacks/show_stacks"), size)
            return parse_page_owner(files.pieces("page_owner"), size)

        asked.say("page_owner: the stack that allocated each page" + ("" if summed else "; a look takes a minute on this kernel"))
        looks = _looks(asked, read, 6 if summed else 2)
    if not any(sites for _, sites in looks):
        raise NotPossible("page_owner is built in, but not on", hint="Boot with page_owner=on.")
    return _Found(
        _grown("page-owner", looks),
        _blind(
            "page-owner",
            "it counts whole pages: pages of slab caches are told by who made the cache larger, not by who holds objects in it",
            "whether something still points to a page is not known: growth, not loss",
        ),
    )


def _by_slab_traces(asked: Asked) -> _Found:
    with KernelFiles("debugfs") as files:
        hint = "It takes CONFIG_SLUB_DEBUG and CONFIG_DEBUG_FS, and slub_debug=U at boot (slub_debug=U,kmalloc-256 for one cache)."
        if not files.names("slab"):
            raise NotPossible("this kernel does not keep who allocated slab objects", hint=hint)
        first = min(2.0, asked.duration / 3)
        suspects = asked.suspects(first)
        traced = [(name, size) for name, size in suspects if files.exists(f"slab/{name}/alloc_traces")]
        if suspects and not traced:
            names = ", ".join(name for name, _ in suspects)
            raise NotPossible(f"the kernel does not keep who allocated the objects of {names}", hint=hint)

        def read() -> Sequence[AllocationSite]:
            return [
                site for name, size in traced for site in parse_slab_traces(files.read(f"slab/{name}/alloc_traces"), name, size)
            ]

        if traced:
            asked.say(f"slab traces of {', '.join(name for name, _ in traced)}")
        looks = _looks(asked, read, 3) if traced else []
    seen = ", ".join(name for name, _ in traced) or "no cache, since none grew"
    return _Found(
        _grown("slab-traces", looks) if looks else [],
        _blind(
            "slab-traces",
            f"it looked into {seen}; it does not see whole pages, vmalloc and per-CPU memory",
            "whether something still points to an object is not known: growth, not loss",
        ),
    )


def _by_kmemleak(asked: Asked) -> _Found:
    with KernelFiles("debugfs") as files:
        if not kmemleak_is_on(files):
            raise NotPossible(
                "this kernel has no kmemleak, or it is off",
                hint="It takes CONFIG_DEBUG_KMEMLEAK, and kmemleak=on at boot.",
            )

        def scan() -> tuple[UnreferencedObject, ...]:
            files.write("kmemleak", b"scan")
            return parse_kmemleak(files.read("kmemleak")).objects

        try:
            asked.say("kmemleak: two scans, to know what it calls unreferenced already")
            scan()
            began = time.monotonic()
            before = scan()
            wait = max(asked.duration, _KMEMLEAK_AGE_SECONDS)
            asked.say(f"kmemleak: waiting for {wait:g} s, for it does not tell of objects that are younger than 5 s")
            asked.interruption.wait(wait)
            asked.say("kmemleak: two scans more")
            scan()
            after = scan()
        except NotPossible as error:
            raise NotPossible(
                f"kmemleak does not work: {error.message}",
                hint=_KMEMLEAK_OFF,
            ) from error
    findings = lost_findings(before, after, time.monotonic() - began, 4)
    fresh = [finding for finding in findings if finding.kind == "definite"]
    total = KindTotal(bytes=sum(f.bytes for f in fresh), blocks=sum(f.blocks for f in fresh))
    return _Found(
        findings[:_MOST_FINDINGS],
        _blind(
            "kmemleak",
            "it does not see whole pages (alloc_pages), nor growth that something still points to",
            "objects whose address is kept in another form, or in hardware, it may call unreferenced though they are in use",
        ),
        total,
    )


def _by_tracepoints(asked: Asked) -> _Found:
    require_tracepoints()
    if asked.counter in ("pages", "unexplained"):
        suspects: list[tuple[str, int]] = []
    else:
        suspects = asked.suspects(min(3.0, asked.duration / 3))
        if not suspects:
            return _Found([], _blind("tracepoints", "no slab cache grew, so none was recorded"))
    findings, blind = trace_kernel(asked.machine, suspects[0] if suspects else None, asked.duration, asked.interruption, asked.say)
    return _Found(findings, blind)


_WAYS: dict[str, _Way] = {
    "allocinfo": _by_allocinfo,
    "page-owner": _by_page_owner,
    "slab-traces": _by_slab_traces,
    "kmemleak": _by_kmemleak,
    "tracepoints": _by_tracepoints,
}
