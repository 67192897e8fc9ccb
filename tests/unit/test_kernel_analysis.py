"""What is made of counters, things and places."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from leakline.analysis.kernel_counters import LEAST_GROWTH, KernelLook, judge_looks
from leakline.analysis.kernel_owners import more_of, owners_of_counter
from leakline.analysis.kernel_sites import answering_call, gained_objects, grown_sites, growth_findings, is_users, lost_findings
from leakline.analysis.trend import Settings
from leakline.model.kernel import AllocationSite, Census, Holder, Things
from leakline.model.kmemleak import KernelCall, UnreferencedObject
from leakline.model.stack import Frame
from leakline.sources.kmem_events import outstanding


def _frame(function: str, module: str = "vmlinux", file: str | None = None) -> Frame:
    return Frame(function=function, file=file, line=None, module=module, address=None, offset=4)


def _stack(*functions: str) -> tuple[Frame, ...]:
    return tuple(map(_frame, functions))


def test_the_frame_that_answers_is_the_first_that_does_not_only_allocate() -> None:
    for allocators in (
        ("__kmalloc_noprof",),
        ("save_stack_trace", "stack_trace_save", "set_track_prepare", "___slab_alloc", "kmem_cache_alloc_noprof"),
        ("post_alloc_hook", "get_page_from_freelist", "__alloc_frozen_pages_noprof", "alloc_pages_mpol", "alloc_pages_noprof"),
        ("__alloc_object", "__create_object", "kmemleak_alloc_percpu", "pcpu_alloc_noprof", "__alloc_percpu"),
        ("__vmalloc_node_range_noprof", "__vmalloc_noprof", "vmalloc_noprof"),
        ("kmem_cache_alloc_lru_noprof",),
        ("__kmalloc_cache_noprof.constprop.0", "kmemdup_noprof", "kstrdup"),
        (),
    ):
        stack = _stack(*allocators, "leak_one", "vfs_write")
        assert answering_call(stack) == len(allocators), allocators
    assert answering_call(_stack("kmalloc_noprof")) is None
    assert answering_call(_stack("alloc_pipe_info", "do_pipe2")) == 0
    assert answering_call(_stack("__d_alloc")) == 0


def test_memory_of_programs_and_files_is_no_answer() -> None:
    assert is_users(AllocationSite((_frame("filemap_x", file="mm/filemap.c"),), "", 1, 1))
    assert is_users(AllocationSite(_stack("__alloc_pages_noprof", "vma_alloc_folio_noprof", "do_anonymous_page"), "", 1, 1))
    assert is_users(AllocationSite(_stack("alloc_pages_noprof", "__handle_mm_fault"), "", 1, 1))
    assert not is_users(AllocationSite(_stack("alloc_pages_noprof", "driver_fault", "__do_fault", "handle_mm_fault"), "", 1, 1))


def test_places_that_grow_come_first_and_steady_ones_not_at_all() -> None:
    looks = [
        (
            float(second),
            [
                AllocationSite(_stack("kmalloc", "leaks", "a"), "slab:x", 1000 + 65536 * second, 10 + second),
                AllocationSite(_stack("kmalloc", "leaks", "b"), "slab:x", 5000, 50),
                AllocationSite(_stack("kmalloc", "steady"), "slab:x", 90000, 900),
                AllocationSite(_stack("kmalloc", "shrinks"), "slab:x", 9000 - second, 9),
                AllocationSite((), "slab:x", second, second),
            ],
        )
        for second in range(8)
    ]
    (growth,) = grown_sites(looks)
    assert (growth.bytes, growth.blocks) == (7 * 65536, 7)
    (finding,) = growth_findings([growth], "allocinfo", 7.0, 10)
    assert finding.location is not None
    assert (finding.location.function, finding.kind, finding.rate_bytes_per_second) == ("leaks", "growing", 65536.0)
    assert finding.evidence[0].values["bytes"] == 7 * 65536
    assert grown_sites(looks[:1]) == []
    assert [f.kind for f in growth_findings(grown_sites([looks[0], looks[-1]]), "slab-traces", 7.0, 10)] == ["outstanding"]


def _object(address: int, function: str, jiffies: int = 1) -> UnreferencedObject:
    calls = tuple(
        KernelCall(function=name, offset=1, size=2, module=None, address=None) for name in ("kmalloc_noprof", function, "vfs_write")
    )
    return UnreferencedObject(
        address=address, type="virtual", size=256, comm="sh", pid=7, jiffies=jiffies, age_seconds=None, backtrace=calls
    )


def test_what_came_while_kmemleak_looked_is_lost_and_the_rest_possible() -> None:
    before = [_object(1, "old"), _object(2, "leaks")]
    after = [*before, _object(3, "leaks"), _object(4, "leaks"), _object(1, "leaks", jiffies=99)]
    first, *rest = lost_findings(before, after, 8.0, 4)
    assert first.location is not None
    assert (first.kind, first.location.function, first.blocks, first.bytes) == ("definite", "leaks", 3, 768)
    assert first.rate_bytes_per_second == 96.0
    assert {(f.kind, f.rate_bytes_per_second) for f in rest} == {("possible", None)}
    assert len(rest) == 2
    assert lost_findings([], [], 1.0, 4) == []


def _looks(values: list[int], *, reclaimable: bool = False) -> list[KernelLook]:
    names = frozenset({"slab:x"}) if reclaimable else frozenset()
    return [KernelLook(float(n), {"slab:x": value, "quiet": 7}, {"slab:x": value // 64}, names) for n, value in enumerate(values)]


def test_reclaimable_caches_are_never_a_leak() -> None:
    rising = [n * 65536 for n in range(4000)]
    settings = Settings(warm_up=10.0)
    assert judge_looks(_looks(rising), settings)[0].verdict == "LEAK"
    trend = judge_looks(_looks(rising, reclaimable=True), settings)[0]
    assert (trend.verdict, trend.gates) == ("GROWING", ("reclaimable",))


def test_little_growth_and_single_peaks_are_not_judged() -> None:
    assert judge_looks(_looks([0, LEAST_GROWTH - 1]), Settings()) == []
    assert judge_looks(_looks([0] * 19 + [1 << 20]), Settings()) == []
    assert judge_looks(_looks([0]), Settings()) == []


def _counted(of_second: Callable[[float], int]) -> list[tuple[float, int]]:
    return [(n / 4, of_second(n / 4)) for n in range(64)]


def test_what_waits_to_be_freed_is_not_gained() -> None:
    # 10,000 objects a second, given back every 5 s; the program begins with the look.
    waiting = _counted(lambda t: int(t % 5 * 10_000) + (50_000 if t >= 5 else 0))
    assert abs(gained_objects(waiting, 4.0, going_on=True)) < 4000
    assert gained_objects(_counted(lambda t: int(1000 * t)), 4.0, going_on=True) in range(3900, 4200)
    both = _counted(lambda t: int(1000 * t) + int(t % 5 * 10_000) + (50_000 if t >= 5 else 0))
    assert gained_objects(both, 4.0, going_on=True) in range(3000, 8000)
    burst = _counted(lambda t: 5000 if t > 2 else int(2500 * t))
    assert gained_objects(burst, 4.0, going_on=False) in range(4500, 5001)
    assert gained_objects(burst, 4.0, going_on=True) == 0
    assert gained_objects([(0.0, 1)], 4.0, going_on=True) == 0


_ME, _OTHER = Holder(7, 70, "maker"), Holder(8, 80, "bystander")


def test_owners_are_those_who_have_more_of_what_the_counter_holds() -> None:
    before: Census = {(_ME, "pipe end"): Things(10), (_OTHER, "pipe end"): Things(900), (_OTHER, "thread"): Things(1)}
    after: Census = {(_ME, "pipe end"): Things(2010), (_OTHER, "pipe end"): Things(901), (_OTHER, "thread"): Things(3)}
    more = more_of(before, after)
    (owner,) = owners_of_counter("slab:kmalloc-cg-1k", (), 1 << 20, 1000, more)
    assert (owner.pid, owner.what, owner.count) == (7, "pipe end", 2000)
    assert owners_of_counter("slab:TCP", (), 1 << 20, 1000, more) == ()
    assert owners_of_counter("meminfo:PageTables", (), 1 << 20, None, more) == ()


def test_a_cache_is_known_by_its_aliases() -> None:
    more = more_of({}, {(_ME, "POSIX timer"): Things(500)})
    assert owners_of_counter("slab:mnt_cache", (), 192_000, 500, more) == ()
    (owner,) = owners_of_counter("slab:mnt_cache", ("posix_timers_cache",), 192_000, 500, more)
    assert owner.count == 500


def test_a_process_that_took_an_old_number_is_another_one() -> None:
    (owner,) = more_of({(Holder(7, 1, "old"), "thread"): Things(50)}, {(Holder(7, 2, "new"), "thread"): Things(3)})
    assert (owner.command, owner.count) == ("new", 3)


def test_control_groups_around_the_one_that_grows_are_left_out() -> None:
    what = "page charged to the control group"
    after: Census = {(Holder(None, None, path), what): Things(1000, 4096000) for path in ("/", "/a", "/a/b")}
    assert [owner.command for owner in owners_of_counter("slab:kmalloc-cg-64", (), 4 << 20, 60000, more_of({}, after))] == ["/a/b"]


_EVENTS = st.lists(st.tuples(st.integers(1, 6), st.booleans()), max_size=60)


@given(_EVENTS)
def test_what_is_outstanding_is_what_was_allocated_last(events: list[tuple[int, bool]]) -> None:
    kept: dict[int, int] = {}
    for when, (pointer, allocated) in enumerate(events):
        if allocated:
            kept[pointer] = when
        else:
            kept.pop(pointer, None)
    keys = np.array([pointer for pointer, _ in events], np.uint64)
    times = np.arange(len(events), dtype=np.uint64)
    chains = np.array([when if allocated else -1 for when, (_, allocated) in enumerate(events)], np.int64)
    order = np.random.default_rng(len(events)).permutation(len(events))
    found = outstanding(keys[order], times[order], chains[order], chains[order])
    assert dict(zip(found.keys.tolist(), found.chains.tolist(), strict=True)) == kept
