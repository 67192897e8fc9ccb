from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakline.analysis.address_space import AddressSpace
from leakline.analysis.crash import repetition
from leakline.analysis.fault_causes import Judge, PageStates, Touch
from leakline.formats.instructions import SLOT, Instruction, memory_accesses, parse_disassembly
from leakline.model.faults import ABSENT, FILE, SHARED, SWAPPED, WRITTEN, ZERO, Access, FaultVma
from leakline.model.mappings import VmaKind
from leakline.model.vma import Vma
from leakline.sources.signal_stops import parse_siginfo

PAGE = 4096


def vma(kind: VmaKind = "anon", perms: str = "rw-p") -> FaultVma:
    return FaultVma(start=0, end=1 << 30, perms=perms, kind=kind, path=None)


def touch(access: Access, code: int | None = None, *, major: bool = False, at: int = PAGE, tid: int = 1, time: int = 0) -> Touch:
    return Touch(time, tid, at, major, access, code)


@pytest.mark.parametrize(
    ("what", "where", "state", "cause"),
    [
        (touch("read", 4), vma(), ABSENT, "zero-page"),
        (touch("write", 6), vma(), ABSENT, "first-touch"),
        (touch("write", 7), vma(), WRITTEN, "copy-on-write"),
        (touch("write", 6), vma(), WRITTEN, "first-touch"),  # given back by madvise
        (touch("write", 7), vma("file", "rw-s"), FILE, "write-notify"),
        (touch("read", 5), vma(), WRITTEN, "spurious"),
        (touch("write"), vma(), SHARED, "copy-on-write"),
        (touch("write"), vma(), ZERO, "copy-on-write"),
        (touch("write"), vma(), WRITTEN, "first-touch"),
        (touch("write"), vma("data"), FILE, "copy-on-write"),
        (touch("write"), vma("file", "rw-s"), FILE, "write-notify"),
        (touch("write"), vma("file", "rw-s"), ABSENT, "page-cache"),
        (touch("exec"), vma("text", "r-xp"), ABSENT, "page-cache"),
        (touch("read", major=True), vma("file", "r--p"), ABSENT, "read-from-disk"),
        (touch("read", major=True), vma(), SWAPPED, "swap-in"),
        (touch("read"), vma(), SWAPPED, "swap-in"),
        (touch("read", major=True), vma("memfd", "rw-s"), ABSENT, "swap-in"),
        (touch("write"), vma("memfd", "rw-s"), ABSENT, "first-touch"),
    ],
)
def test_the_cause_follows_from_mapping_access_and_page(what: Touch, where: FaultVma, state: int, cause: str) -> None:
    states = PageStates()
    states.set(what.address, state)
    assert Judge(states, numa=False).cause(what, where) == cause


def test_what_cannot_be_looked_up_is_unknown() -> None:
    assert Judge(PageStates(), numa=False).cause(touch("read"), None) == "unknown"


def test_numa_and_userfaultfd() -> None:
    states = PageStates()
    states.set(PAGE, WRITTEN)
    assert Judge(states, numa=True).cause(touch("read"), vma()) == "numa"
    assert Judge(PageStates(), numa=False).cause(touch("read"), vma(), ["um"]) == "userfaultfd"
    assert Judge(states, numa=False).cause(touch("write"), vma(), ["uw"]) == "userfaultfd"


def test_who_comes_a_moment_later_finds_it_done() -> None:
    judge = Judge(PageStates(), numa=False)
    assert judge.cause(touch("write", 6, tid=1, time=1000), vma()) == "first-touch"
    assert judge.cause(touch("write", 6, tid=2, time=1500), vma()) == "spurious"
    assert judge.cause(touch("write", 6, tid=2, time=10**9), vma()) == "first-touch"
    began_before = Touch(10**9 + 50_000, 3, PAGE, False, "write", 6, 10**9 - 1)
    began_behind = Touch(10**9 + 400, 3, PAGE, False, "write", 6, 10**9 + 100)
    assert judge.cause(began_behind, vma()) == "first-touch", "given back in between"
    judge.cause(touch("write", 6, tid=2, time=10**9), vma())
    assert judge.cause(began_before, vma()) == "spurious"
    judge.mapped(0, 2 * PAGE)
    assert judge.cause(touch("write", 6, tid=4, time=10**9 + 1), vma()) == "first-touch", "another mapping"


def test_after_a_fork_both_copy() -> None:
    parent = PageStates()
    parent.set(PAGE, WRITTEN)
    parent.set(5 * PAGE, FILE)
    child = parent.fork()
    for states in (parent, child):
        assert (states.get(PAGE), states.get(5 * PAGE), states.get(9 * PAGE)) == (SHARED, FILE, ABSENT)
        assert Judge(states, numa=False).cause(touch("write"), vma()) == "copy-on-write"


@given(
    st.lists(
        st.tuples(st.integers(0, 2000), st.integers(1, 1500), st.sampled_from([ABSENT, WRITTEN, FILE, SHARED])),
        min_size=1,
        max_size=12,
    )
)
def test_page_states_are_those_that_were_set_last(steps: list[tuple[int, int, int]]) -> None:
    states, expected = PageStates(), dict[int, int]()
    for first, count, state in steps:
        if state == ABSENT:
            states.forget(first * PAGE, (first + count) * PAGE)
        else:
            states.fill(first * PAGE, bytes([state]) * count)
        expected |= dict.fromkeys(range(first, first + count), state)
    assert all(states.get(page * PAGE + 7) == state for page, state in expected.items())


def test_what_a_child_borrows_is_not_shared() -> None:
    parent = PageStates()
    parent.set(PAGE, WRITTEN)
    parent.set(2 * PAGE, SHARED)
    child = parent.fork()
    parent.set(3 * PAGE, WRITTEN)
    parent.take_back(child)
    assert [parent.get(page * PAGE) for page in range(1, 5)] == [WRITTEN, SHARED, WRITTEN, ABSENT]
    assert not parent.forked


def plain(start: int, end: int, perms: str = "rw-p", inode: int = 0) -> Vma:
    return Vma(start * PAGE, end * PAGE, perms, 0, (0, 0), inode, None)


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 20), st.sampled_from(["rw-p", "r--p", "---p"])), max_size=20))
def test_the_mapping_that_came_last_counts(steps: list[tuple[int, int, str]]) -> None:
    space, expected = AddressSpace(), dict[int, str]()
    for first, count, perms in steps:
        space.add(plain(first, first + count, perms))
        expected |= dict.fromkeys(range(first, first + count), perms)
    for page in range(90):
        found = space.at(page * PAGE + 1)
        assert (None if found is None else found.perms) == expected.get(page)
    edges = [edge for v in space.vmas for edge in (v.start, v.end)]
    assert edges == sorted(edges)


def test_what_was_unmapped_is_remembered() -> None:
    space = AddressSpace([plain(1, 5), plain(8, 9)])
    space.replace([plain(8, 9)])
    was = space.was_at(2 * PAGE)
    assert was is not None
    assert (was.start, was.end) == (PAGE, 5 * PAGE)
    assert space.was_at(8 * PAGE) is None
    below, above = AddressSpace([plain(1, 5), plain(8, 9)]).neighbours(5 * PAGE)
    assert (below.side, below.distance, above.side, above.distance) == ("below", 0, "above", 3 * PAGE)


@pytest.mark.parametrize(
    ("text", "accesses"),
    [
        ("mov eax,DWORD PTR [rdi+0x4]", [("read", "rdi", 4)]),
        ("mov BYTE PTR [rax],0x1", [("write", "rax", 0)]),
        ("cmp QWORD PTR [rbx-0x8],0x1", [("read", "rbx", -8)]),
        ("lock cmpxchg DWORD PTR [rdi],esi", [("write", "rdi", 0)]),
        ("xchg eax,DWORD PTR [rdi]", [("write", "rdi", 0)]),
        ("rep movs BYTE PTR es:[rdi],BYTE PTR ds:[rsi]", [("write", "rdi", 0), ("read", "rsi", 0)]),
        ("vmovdqu YMMWORD PTR [rdi+rdx*1-0x20],ymm1", [("write", "rdi", -32)]),
        ("push rbp", [("write", "rsp", -8)]),
        ("ret", [("read", "rsp", 0)]),
        ("call QWORD PTR [rip+0x2fe0]", [("read", "rip", 0x2FE0), ("write", "rsp", -8)]),
        ("lea rax,[rdi+0x8]", []),
        ("prefetcht0 BYTE PTR [rdi]", []),
        ("nop WORD PTR [rax+rax*1+0x0]", []),
        ("div QWORD PTR [rcx]", [("read", "rcx", 0)]),
        ("mov rax,QWORD PTR fs:0x28", [("read", None, 0x28)]),
        ("mov eax,0x5", []),
    ],
)
def test_what_an_instruction_does_to_memory(text: str, accesses: list[tuple[str, str | None, int]]) -> None:
    assert [(a.access, a.base, a.displacement) for a in memory_accesses(text)] == accesses


def test_the_operand_that_lies_at_the_address() -> None:
    move = Instruction(text="", size=2, accesses=memory_accesses("movs QWORD PTR es:[rdi],QWORD PTR ds:[rsi]"))
    registers = {"rdi": 0x1000, "rsi": 0x2000}
    to, source = move.access_to(0x1004, registers), move.access_to(0x2000, registers)
    assert to is not None
    assert source is not None
    assert (to.access, source.access) == ("write", "read")
    assert move.access_to(0x90000000, registers) is None


@given(st.text(max_size=80), st.integers(0, 4))
def test_any_output_of_a_disassembler_is_read(text: str, count: int) -> None:
    assert len(parse_disassembly(text, count)) == count
    for line in text.split("\n"):
        memory_accesses(line)


def test_jumps_lead_to_addresses() -> None:
    (_, found) = parse_disassembly(f"   0:\t(bad)\n  {SLOT:x}:\tcall   0x{SLOT + 0x35:x}\n  {SLOT + 5:x}:\tnop\n", 2)
    assert found is not None
    assert (found.size, found.at(0x401000)) == (5, "call 0x401035")


def test_recursion_is_seen_below_what_was_called_last() -> None:
    again = repetition(["memset", *["even", "odd"] * 50, "main", "_start"])
    assert again is not None
    assert (again.functions, again.times, again.depth) == (("even", "odd"), 50, 103)
    assert repetition(["a", "b", "c", "main"]) is None


def test_signal_information() -> None:
    info = parse_siginfo(bytes.fromhex("0b00000000000000010000000000000004000000000000000000"))
    assert (info.number, info.code, info.address) == (11, 1, 4)
