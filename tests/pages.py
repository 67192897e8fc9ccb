"""What pages are made of, for tests: a recording with all that one can hold, findings, mappings and page faults with ugly names."""

from __future__ import annotations

from pathlib import Path

from leakline.analysis.accounting import total_mappings
from leakline.model.faults import FaultCause, FaultCounts, FaultGroup, FaultMoment, FaultReport, FaultVma
from leakline.model.finding import Cost, Evidence, Finding, Reports, Subject, Target
from leakline.model.mappings import VmaMemory, VmaTable
from leakline.model.recording import CounterValue, ProcessAmounts, ProcessIdentity, RecordingStart, Tick
from leakline.model.stack import Frame
from leakline.present.json import to_json
from leakline.store.writer import RecordingWriter
from tests.findings import finding, frame, report

MIB = 1 << 20
UGLY = "<script>alert(1)</script>"
ENDS_SCRIPT = "</script><img src=x onerror=alert(2)>"
PID = 4711


def write_recording(path: Path, command: str = "leaky", ticks: int = 240) -> Path:
    """Four processes, the first of which leaks 12 KiB/s; mappings, slab caches and meminfo; a short peak in the second."""
    start = RecordingStart(boot_id="boot", host="host", kernel="6.12", interval=1.0, ticks_per_second=100, memory=8 << 30)
    names = (command, "steady", UGLY, ENDS_SCRIPT)
    who = [ProcessIdentity(PID + n, 5, 1, "user", name, f"/usr/bin/{name}", "/") for n, name in enumerate(names)]
    with RecordingWriter(path, start) as writer:
        for at in range(ticks):
            held = [4 * MIB + at * 12288, 20 * MIB + (30 * MIB if at == 77 else 0), 5 * MIB, 6 * MIB]
            rows = [
                (one, ProcessAmounts(uss, uss, uss + MIB, 0, uss, 0, 0, 8192, at, 0)) for one, uss in zip(who, held, strict=True)
            ]
            meminfo = {"MemTotal": 8 << 30, "MemFree": (4 << 30) - at * 12288, "AnonPages": (1 << 30) + at * 12288, "SwapCached": 0}
            meminfo |= {"MemAvailable": 6 << 30, "SwapFree": 0, "Cached": 2 << 30, "Shmem": 0, "SUnreclaim": 1 << 28}
            counters = {"meminfo": [CounterValue("meminfo", name, value) for name, value in meminfo.items()]}
            counters["slab"] = [CounterValue("slab", "dentry", 40 * MIB), CounterValue("slab", UGLY, MIB + at * 4096)]
            counters["mapping"] = [
                CounterValue("mapping", "[heap]", 3 * MIB + at * 12288, who[0]),
                CounterValue("mapping", f"/lib/{UGLY}.so", MIB, who[0]),
            ]
            writer.write(Tick(1.7e9 + at, 100.0 + at, 4, 0.0), rows, (), counters)  # type: ignore[arg-type]
    return path


def some_findings(source: Path) -> Reports:
    """Lost blocks at a line of a file, growing ones in a deep stack, and a finding that is nothing but ugly names."""
    source.write_text("".join(f"int line_{n} = {n};  /* {UGLY} */\n" for n in range(1, 31)))
    deep = tuple(frame(f"level_{n}", n + 1, "/src/deep.cc") for n in range(12))
    lost = finding(
        bytes=73728,
        blocks=6,
        indirect_bytes=4096,
        indirect_blocks=2,
        rate_bytes_per_second=12288.0,
        rate_interval=(12000.0, 12500.0),
        stack=(frame("lose", 6, str(source)), frame("main", 20, str(source))),
        evidence=(Evidence(method="scan", text="two scans found no way to any of the 6 blocks", values={}),),
    )
    growing = finding(kind="growing", bytes=50000, blocks=40, stack=deep, confidence="medium")
    ugly = Frame(function=UGLY, file=f"/src/{ENDS_SCRIPT}.c", line=3, module=UGLY, address=1)
    bad: Finding = finding(
        kind="possible",
        subject=Subject(type="heap", name=UGLY),
        stack=(ugly, frame("a\x1b[31m\u202eb", 2)),
        evidence=(Evidence(method=UGLY, text=f"{ENDS_SCRIPT} <!-- ]]> &amp; {{{{ 7 * 7 }}}}", values={}),),
        fingerprint=UGLY,
    )
    cost = Cost(target_stopped_ns=1_800_000, duration_ns=9_000_000)
    return Reports(
        targets=(
            report((lost, growing), command="leaky", pid=PID, definite=(73728, 6), cost=cost),
            report((bad,), command=UGLY, pid=PID + 2),
        )
    )


def mappings(command: str = "leaky") -> VmaTable:
    """Some mappings of all sorts."""

    def one(start: int, kind: str, size: int, path: str | None) -> VmaMemory:
        held = size // 2
        amounts = (size, held, held, held, held, held, 0, 0, 0, 0, 0, 0, 0)
        return VmaMemory(start, start + size, "rw-p", kind, None, path, 0, *amounts, ())  # type: ignore[arg-type]

    kinds = ("heap", "anon", "text", "file", "stack", "data")
    rows = [
        one(0x1000 * (1 + 4096 * n), kinds[n % 6], 4096 * (n * n + 1), f"/lib/{UGLY}{n}.so" if n % 3 else None) for n in range(40)
    ]
    return VmaTable(
        pid=PID, command=command, vmas=tuple(rows), groups=None, totals=total_mappings("total", rows), max_map_count=None
    )


def faults(command: str = "leaky") -> FaultReport:
    """First touches and reads from disk over ten seconds."""
    counts: dict[FaultCause, int] = {"first-touch": 900, "read-from-disk": 30}
    groups = tuple(
        FaultGroup(
            kind="major" if cause == "read-from-disk" else "minor",
            cause=cause,
            access="write",
            count=count,
            bytes=count * 4096,
            huge=0,
            by="program",
            address=0x1000,
            vma=FaultVma(start=0x1000, end=0x2000, perms="rw-p", kind="heap", path=ENDS_SCRIPT),
            threads=1,
            tid=None,
            location=frame("touch").location,
            location_is="recorded",
            stack=(frame("touch"), frame("main")),
            explanation=UGLY,
        )
        for cause, count in counts.items()
    )
    return FaultReport(
        target=Target(pid=PID, command=command, executable=None),
        seconds=10.0,
        counts=FaultCounts(minor=900, major=30),
        seen=FaultCounts(minor=900, major=30),
        lost=0,
        every=1,
        by="line",
        faults=groups,
        timeline=tuple(
            FaultMoment(seconds=n + 1.0, counts={"first-touch": 90, "read-from-disk": 3 * (n % 3), UGLY: 1}) for n in range(10)
        ),
        interval=1.0,
        processes=(),
        access_is="decoded",
        not_seen=(),
        status=None,
        cost=Cost(target_stopped_ns=0, duration_ns=0),
    )


def write_all(folder: Path) -> list[Path]:
    """A file of each sort."""
    recording = write_recording(folder / "server.leakline")
    files = {
        "findings.json": to_json(some_findings(folder / "leaky.c")),
        "maps.json": to_json(mappings()),
        "faults.json": to_json(faults()),
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    return [recording, *(folder / name for name in files)]
