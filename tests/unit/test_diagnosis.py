from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakline.analysis.diagnosis import agreed, find_lost, fits, rank, summarise
from leakline.analysis.outstanding import find_outstanding
from leakline.model.heap import BlockTotal, HeapScan, LeakKind, LostBlock
from leakline.model.stack import Frame
from leakline.model.trace import Allocation, AllocationTrace

SECOND = 10**9


def block(
    address: int, size: int = 104, kind: LeakKind = "definite", leader: int | None = None, content: str | None = None
) -> LostBlock:
    return LostBlock(address=address, size=size, kind=kind, leader=leader or address, content=content)


def scan(*lost: LostBlock, at: int = 10) -> HeapScan:
    return HeapScan(
        time_ns=at * SECOND,
        allocator="glibc 2.36",
        lost=lost,
        reachable=BlockTotal(blocks=3, bytes=300),
        retained_free=0,
        heap_ranges=(),
        stopped_ns=1000,
        duration_ns=2000,
        copied=4096,
        threads=1,
        problems=(),
    )


def trace(*allocations: tuple[int, int], stack: tuple[int, ...] = (0x1000,), sees_frees: bool = True) -> AllocationTrace:
    return AllocationTrace(
        engine="bpf",
        began_ns=5 * SECOND,
        ended_ns=11 * SECOND,
        allocations=tuple(Allocation(address=a, size=s, time_ns=6 * SECOND, tid=1, stack=stack) for a, s in allocations),
        sees_frees=sees_frees,
        seen=len(allocations),
        lost=0,
    )


def frame(function: str, line: int | None, module: str = "app") -> Frame:
    return Frame(function=function, file=None if line is None else f"/src/{function}.c", line=line, module=module, address=0x10)


FRAMES = {0x1000: (frame("make", 6),), 0x2000: (frame("serve", 20),), 0x3000: (frame("strdup", None, "libc.so.6"),)}


def test_only_what_two_scans_call_lost_is_reported() -> None:
    first, second = scan(block(1), block(2)), scan(block(2), block(3), at=11)
    assert [b.address for b in agreed([first, second])] == [2]
    summary = summarise([first, second])
    assert summary.definite is not None
    assert summary.possible is not None
    assert (summary.definite.blocks, summary.possible.blocks) == (1, 1)
    (finding,) = find_lost([first, second], None, {})
    assert (finding.blocks, finding.confidence, finding.location) == (1, "high", None)


def test_a_freed_and_reused_address_of_another_size_is_another_block() -> None:
    assert agreed([scan(block(1, 104)), scan(block(1, 200))]) == ()


def test_a_single_scan_gives_medium_confidence() -> None:
    (finding,) = find_lost([scan(block(1))], None, {})
    assert finding.confidence == "medium"


def test_nothing_looked_at_is_none_and_not_zero() -> None:
    assert summarise([]).definite is None


def test_a_recorded_block_gets_its_line_and_older_ones_of_its_form_join() -> None:
    lost = [block(1), block(2), block(3)]
    (finding,) = find_lost([scan(*lost), scan(*lost, at=11)], trace((1, 100)), FRAMES)
    assert finding.location is not None
    assert (finding.location.line, finding.location_is, finding.blocks, finding.bytes) == (6, "recorded", 3, 312)
    assert [e.method for e in finding.evidence] == ["scan", "trace", "equal form"]
    # One block of 104 bytes in the five seconds before the first of the two scans.
    assert finding.rate_bytes_per_second == pytest.approx(104 / 5)


def test_blocks_that_two_sites_could_have_made_get_the_odds() -> None:
    lost = [block(1), block(2), block(3)]
    both = trace((1, 100))
    other = Allocation(address=2, size=100, time_ns=6 * SECOND, tid=1, stack=(0x2000,))
    both = AllocationTrace(**{**{f: getattr(both, f) for f in both.__struct_fields__}, "allocations": (*both.allocations, other)})
    findings = find_lost([scan(*lost), scan(*lost, at=11)], both, FRAMES)
    assert [(f.location.line, f.location_is, f.blocks) for f in findings if f.location] == [
        (6, "recorded", 1),
        (20, "recorded", 1),
        (6, "inferred", 1),
    ]
    odds = findings[-1].evidence[-1]
    assert (findings[-1].confidence, odds.method) == ("low", "odds")
    assert odds.values == {"make.c:6": 0.5, "serve.c:20": 0.5}


def test_a_record_whose_size_does_not_fit_is_another_allocation() -> None:
    (finding,) = find_lost([scan(block(1, 5000)), scan(block(1, 5000))], trace((1, 16)), FRAMES)
    assert finding.location is None


def test_indirect_blocks_are_counted_with_their_leader() -> None:
    lost = [block(1), block(2, kind="indirect", leader=1), block(3, 50, kind="indirect", leader=1)]
    (finding,) = find_lost([scan(*lost), scan(*lost)], None, {})
    assert (finding.blocks, finding.indirect_blocks, finding.indirect_bytes) == (1, 2, 154)


def test_a_line_behind_a_library_is_inferred_and_says_so() -> None:
    (finding,) = find_lost([scan(block(1)), scan(block(1))], trace((1, 100), stack=(0x3000, 0x2000)), FRAMES)
    assert finding.location is not None
    assert (finding.location.line, finding.location_is) == (20, "inferred")
    assert "frame pointers" in {e.method for e in finding.evidence}


def test_possible_blocks_are_of_low_confidence() -> None:
    (finding,) = find_lost([scan(block(1, kind="possible")), scan(block(1, kind="possible"))], None, {})
    assert (finding.kind, finding.confidence) == ("possible", "low")


def test_what_is_not_freed_is_reachable_once_a_scan_looked_and_outstanding_before() -> None:
    recorded = trace((1, 100), (2, 50))
    (after,) = find_outstanding(recorded, [scan(block(1))], FRAMES)
    assert (after.kind, after.blocks, after.bytes) == ("reachable", 1, 50)
    (before,) = find_outstanding(recorded, [], FRAMES)
    assert (before.kind, before.blocks, before.confidence) == ("outstanding", 2, "low")


def survivors(*times: float) -> AllocationTrace:
    """A recording of eight seconds with blocks that were allocated at these."""
    allocations = tuple(
        Allocation(address=i + 1, size=100, time_ns=int((5 + t) * SECOND), tid=1, stack=(0x1000,)) for i, t in enumerate(times)
    )
    return msgspec.structs.replace(trace(), ended_ns=13 * SECOND, allocations=allocations)


def test_what_is_left_of_every_part_of_the_recording_grows() -> None:
    (finding,) = find_outstanding(survivors(*(i * 8 / 40 for i in range(40))), [scan()], FRAMES)
    assert (finding.kind, finding.confidence) == ("growing", "low")
    assert finding.rate_bytes_per_second == pytest.approx(500)


@pytest.mark.parametrize(
    "times",
    [[7 + i / 64 for i in range(64)], [i / 64 for i in range(64)], [1.0, 3.0, 5.0, 7.0]],
    ids=["a full cache keeps the latest", "a start", "too few"],
)
def test_what_is_left_of_one_part_does_not_grow(times: list[float]) -> None:
    (finding,) = find_outstanding(survivors(*times), [scan()], FRAMES)
    assert finding.kind == "reachable"


def test_a_sample_stands_for_more_and_is_never_sure_of_its_line() -> None:
    sampled = msgspec.structs.replace(trace((1, 100), sees_frees=False), sampled_bytes=10_000)
    (finding,) = find_lost([scan(block(1)), scan(block(1), at=11)], sampled, FRAMES)
    assert finding.location_is == "inferred"
    assert "sampling" in {e.method for e in finding.evidence}
    assert finding.rate_bytes_per_second == pytest.approx(10_000 / 5)


def test_findings_with_a_line_come_first_within_a_kind() -> None:
    lost = [block(1), block(2, 9000)]
    findings = find_lost([scan(*lost), scan(*lost)], trace((1, 100)), FRAMES)
    assert [f.location is not None for f in findings] == [True, False]
    assert rank(list(reversed(findings))) == findings


@given(st.integers(0, 1 << 20))
def test_usable_sizes_of_glibc_fit_their_requests(requested: int) -> None:
    small = max(((requested + 8 + 15) & ~15), 32) - 8
    mapped = ((requested + 16 + 4095) & ~4095) - 16
    assert fits(requested, small)
    assert requested < 128 * 1024 or fits(requested, mapped)
    assert not fits(requested, requested + 100_000)


@given(st.integers(1, 1 << 20), st.sampled_from([1 << 16, 1 << 20, 1 << 24]), st.integers(0, (1 << 24) // 4096))
def test_what_memalign_keeps_behind_a_block_fits(requested: int, alignment: int, page: int) -> None:
    """As glibc's _int_memalign does it for a mapping of its own, which starts at any page."""
    mapped = (requested + alignment + 48 + 4095) & ~4095
    start = (1 << 40) + 4096 * page
    address = (start + 16 + alignment - 1) & -alignment
    usable = start + mapped - address
    assert fits(requested, usable, address)
    assert not fits(requested, requested + 2 * (address & -address) + 8192, address)
