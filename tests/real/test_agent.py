"""The agent in real programs: which stacks and sizes it records, how processes end with it, and what it must not disturb."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from leakline.errors import NotPossible
from leakline.native.parts import part_path
from tests.agent import OFF, WAITING, Parent, Process, State, wait_for
from tests.conftest import TARGETS, Build

ROOT = Path(__file__).parents[2]
SQLITE = """
import sqlite3
base = sqlite3.connect(":memory:")
base.execute("create table t(a integer primary key, b text)")
base.executemany("insert into t(b) values (?)", ((f"name {i}" * (i % 9),) for i in range(50000)))
base.execute("create index i on t(b)")
print(base.execute("select count(*) from t where b like '%7%'").fetchone())
"""
KINDS_OF_STACKS = (
    *("alloca", "expressions", "signals", "elsewhere", "varied", "mixed"),
    *("varied-at-once", "coroutines", "longjmp", "alarms"),
)
SUM = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 99999) SELECT sum(i) FROM n;"
REDIS = """
cd "$(mktemp -d)"
redis-server --port 0 --unixsocket socket --save "" > log & server=$!
while [ ! -e socket ]; do sleep 0.1; done
redis-benchmark -s socket -q -n 5000 -r 1000 -t set,get,lpush,hset > log2
redis-cli -s socket shutdown nosave
wait $server
"""
ENTRIES = {
    "by_malloc": 101,
    "by_calloc": 102,
    "by_realloc": 103,
    "by_reallocarray": 104,
    "by_memalign": 105,
    "by_aligned_alloc": 128,
    "by_posix_memalign": 107,
    "by_valloc": 108,
    "by_pvalloc": 109,
    "by_strdup": 11,
    "by_in_place": 299,
    "by_failing": 112,
    "by_mmap": 40 << 20,
    "by_huge": 0xFFFFFFFF,
    "by_zero": 0,
}
LEVELS = [["-g", "-O0"], ["-O2"], ["-O3", "-fno-omit-frame-pointer"]]
Look = Callable[[Process], None]


@pytest.fixture(scope="session")
def agent() -> Path:
    """The library."""
    try:
        return part_path("libleakline-agent.so")
    except NotPossible as error:
        pytest.skip(error.message)


@pytest.fixture(scope="session")
def checking_agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The agent that walks every stack again, and compares."""
    out = tmp_path_factory.mktemp("agent") / "libleakline-agent-check.so"
    sources = sorted(str(path) for name in ("agent", "unwind") for path in (ROOT / "native" / name).glob("*.c"))
    flags = f"@{ROOT / 'native/agent/flags'}"
    subprocess.run(["gcc", flags, "-DLEAKLINE_AGENT_SELF_CHECK", *sources, "-o", str(out)], check=True)
    return out


class Seen:
    """What was read of one program at its end."""

    def __init__(self, blocks: int = 0) -> None:
        self._wanted = blocks
        self.states: list[State] = []
        self.pids: list[int] = []
        self.blocks: list[int] = []
        self.stacks: list[list[str]] = []
        self.sizes: list[int] = []
        self.outermost: list[bool] = []
        self.sites: list[int] = []

    def __call__(self, process: Process) -> None:
        self.states.append(process.state())
        self.pids.append(process.pid)
        if not self._wanted:
            return
        self.blocks = [word for word in process.words("blocks", self._wanted) if word]
        for block in self.blocks:
            site, size = process.record(block)
            self.sites.append(site)
            self.sizes.append(size)
            self.stacks.append(process.stack(block) if site else [])
            self.outermost.append(bool(site) and process.site(site).reached_outermost)

    def chains(self) -> set[tuple[str, ...]]:
        """The distinct stacks, up to main."""
        return {tuple(stack[: stack.index("main") + 1] if "main" in stack else stack) for stack in self.stacks}


@pytest.mark.parametrize("flags", LEVELS, ids=lambda flags: flags[-1])
def test_every_entry_point(agent: Path, build: Build, flags: list[str]) -> None:
    seen = Seen(15)
    with Parent(agent, seen) as parent:
        assert parent.run(build("allocates.c", *flags)).returncode == 0
    assert seen.sizes == list(ENTRIES.values())
    libc_only = [stack for stack in seen.stacks if stack[0] not in ENTRIES]
    assert len(libc_only) == 1  # strdup, which is in libc itself
    assert [stack[0] if stack[0] in ENTRIES else stack[1] for stack in seen.stacks] == list(ENTRIES)
    assert all(stack[-1] == "_start" for stack in seen.stacks)
    assert all(seen.outermost)
    assert seen.states[0].phase == WAITING


def test_cpp(agent: Path, build: Build) -> None:
    seen = Seen(6)
    with Parent(agent, seen) as parent:
        assert parent.run(build("allocates.cpp", "-O2")).returncode == 0
    assert seen.sizes == [4, 222, 128, 224, 501, 226]
    callers = [next(name.removesuffix(".cold") for name in stack if name.startswith("by_")) for stack in seen.stacks]
    assert callers == ["by_new", "by_array", "by_aligned_new", "by_nothrow", "by_string", "by_catch"]
    assert all(seen.outermost)


@pytest.mark.parametrize("flags", LEVELS, ids=lambda flags: flags[-1])
@pytest.mark.parametrize(
    ("what", "chain"),
    [
        ("expressions", ("leaf", "realigned", "above", "expressions", "main")),
        ("longjmp", ("leaf", "jumps", "longjmps", "main")),
    ],
)
def test_hard_stacks(agent: Path, build: Build, what: str, chain: tuple[str, ...], flags: list[str]) -> None:
    seen = Seen(20)
    with Parent(agent, seen) as parent:
        assert parent.run(build("stacks.c", *flags), what).returncode == 0
    found = {tuple(name for name in stack if name != "longjmps" and name != "expressions") for stack in seen.chains()}
    assert found == {tuple(name for name in chain if name not in ("longjmps", "expressions"))}  # these two may be inlined
    assert all(seen.outermost)


@pytest.mark.parametrize("flags", [["-O1"], ["-O2"]], ids=lambda flags: flags[-1])
def test_saved_rbp_under_alloca(agent: Path, build: Build, flags: list[str]) -> None:
    seen = Seen(40)
    with Parent(agent, seen) as parent:
        assert parent.run(build("stacks.c", *flags), "alloca").returncode == 0
    callers = [stack[2] for stack in seen.stacks]
    assert callers == ["caller_a", "caller_b"] * 20
    assert all(seen.outermost)


@pytest.mark.parametrize("what", ["signals", "elsewhere"])
def test_stacks_go_on_above_a_signal(agent: Path, build: Build, what: str) -> None:
    seen = Seen(20)
    with Parent(agent, seen) as parent:
        assert parent.run(build("stacks.c", "-O2"), what).returncode == 0
    assert len(seen.stacks) == 20
    for stack in seen.stacks:
        assert stack[:2] == ["leaf", "handler"]
        assert "main" in stack
        assert stack[-1] == "_start"


def test_varied_paths(agent: Path, build: Build) -> None:
    seen = Seen(4096)
    with Parent(agent, seen) as parent:
        assert parent.run(build("stacks.c", "-O2", "-fno-optimize-sibling-calls"), "varied").returncode == 0
    assert len(seen.blocks) == 4096
    assert len(set(seen.sites)) == 1024
    assert seen.sites[:1024] == seen.sites[1024:2048] == seen.sites[3072:]


def test_depth_limit(agent: Path, build: Build) -> None:
    seen = Seen(1)
    with Parent(agent, seen) as parent:
        assert parent.run(build("stacks.c", "-O0"), "deep").returncode == 0
    assert seen.stacks[0] == ["leaf"] + ["deep"] * 63
    assert not seen.outermost[0]
    assert seen.states[0].truncated >= 1


def test_coroutines(agent: Path, build: Build) -> None:
    seen = Seen(40)
    with Parent(agent, seen) as parent:
        assert parent.run(build("stacks.c", "-O2"), "coroutines").returncode == 0
    assert len(seen.stacks) == 40
    assert {stack[0] for stack in seen.stacks} == {"leaf"}
    assert {stack[1] for stack in seen.stacks} == {"in_coroutine"}
    assert {len(stack) for stack in seen.stacks} == {3}  # the third is where makecontext(3) lets it return to


def test_code_without_information_ends_the_stack(agent: Path, build: Build) -> None:
    seen = Seen(20)
    with Parent(agent, seen) as parent:
        assert parent.run(build("stacks.c", "-O2"), "bare").returncode == 0
    assert {tuple(stack) for stack in seen.stacks} == {("leaf", "bare")}
    assert not any(seen.outermost)
    assert seen.states[0].truncated


def same_place(folder: Path) -> list[Path]:
    """Two libraries that the loader puts to the same place, one after the other."""
    libraries = []
    for name in ("first", "other"):
        library = folder / f"lib{name}.so"
        source = str(TARGETS / "entry_library.c")
        subprocess.run(["gcc", "-O1", "-shared", "-fPIC", f"-DNAME={name}", source, "-o", str(library)], check=True)
        libraries.append(library)
    return libraries


def test_libraries_in_the_same_place(agent: Path, build: Build, tmp_path: Path) -> None:
    found: list[tuple[list[int], list[int]]] = []

    def look(process: Process) -> None:
        words = process.words("blocks", 1010)
        found.append(([process.record(block)[0] for block in words[:10]], words[1000:1010]))

    with Parent(agent, look) as parent:
        assert parent.run(build("stacks.c", "-O2", "-ldl"), "libraries", *same_place(tmp_path)).returncode == 0
    sites, places = found[0]
    assert all(sites)
    if len(set(places)) == 1:  # as the kernel has it, mostly
        assert not set(sites[0::2]) & set(sites[1::2])


def test_library_where_there_was_code_of_none(agent: Path, build: Build, tmp_path: Path) -> None:
    """The stack that ended at that code is not taken for that of the library."""
    seen = Seen(3)
    with Parent(agent, seen) as parent:
        done = parent.run(build("stacks.c", "-O2", "-ldl"), "copied", same_place(tmp_path)[0])
    assert done.returncode == 0
    assert len(seen.sites) == 3
    assert seen.outermost == [True, False, True]


@pytest.mark.parametrize("number", [200, pytest.param(10000, marks=pytest.mark.slow)])
def test_threads_leave_nothing_behind(agent: Path, build: Build, number: int) -> None:
    resident: list[int] = []

    def look(process: Process) -> None:
        resident.append(int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * resource.getpagesize())
        assert process.state().allocations >= number * 50

    with Parent(agent, look) as parent:
        assert parent.run(build("stacks.c", "-O1"), "threads", number).returncode == 0
    assert resident[0] < 24 << 20


def test_threads_at_once(agent: Path, build: Build) -> None:
    seen = Seen()
    with Parent(agent, seen) as parent:
        assert parent.run(build("stacks.c", "-O1"), "at-once", 16).returncode == 0
    assert seen.states[0].allocations >= 16 * 20000
    assert seen.states[0].memo_misses < 16 * 2000


def test_signals_while_allocating(agent: Path, build: Build) -> None:
    seen = Seen()
    with Parent(agent, seen) as parent:
        assert parent.run(build("stacks.c", "-O2"), "alarms").returncode == 0
    assert seen.states[0].truncated == 0


@pytest.mark.parametrize("flags", LEVELS, ids=lambda flags: flags[-1])
def test_remembered_against_walks(checking_agent: Path, tmp_path: Path, build: Build, flags: list[str]) -> None:
    """The self-checking build unwinds every stack again with all registers."""
    program = build("stacks.c", *flags)
    with Parent(checking_agent, Seen()) as parent:
        for what in (
            "alloca",
            "expressions",
            "signals",
            "elsewhere",
            "varied",
            "mixed",
            "varied-at-once",
            "coroutines",
            "longjmp",
            "alarms",
        ):
            done = parent.run(program, what)
            assert done.returncode == 0
            assert done.stderr.endswith(" guessed, 0 differ\n"), done.stderr
        for arguments in (("at-once", 4), ("libraries", *same_place(tmp_path))):
            assert parent.run(program, *arguments).stderr.endswith(" guessed, 0 differ\n")


def follows(process: Process) -> bool:
    """Whether a thread is guessing stacks from the one before."""
    return process.name(process.words("leakline_record_quickly", 1, "libleakline-agent.so")[0]) == "leakline_record_guessed"


ORDER = [("by_a",), ("by_b",), ("by_a", "by_c"), ("by_a",)]


@pytest.mark.parametrize("flags", [["-O2"], ["-O1", "-fno-omit-frame-pointer"]], ids=lambda flags: flags[-1])
def test_guessed_from_the_one_before(agent: Path, build: Build, flags: list[str]) -> None:
    seen, has_followed = Seen(56), []

    def look(process: Process) -> None:
        seen(process)
        has_followed.append(follows(process))

    with Parent(agent, look) as parent:
        assert parent.run(build("follows.c", *flags), "order").returncode == 0
    assert has_followed == [True]
    usual = [("leaf", "common", *way, "in_turn", "main") for way in ORDER] * 8
    unusual = [("leaf", "common", *way, "main") for way in (("by_d",), ("by_a", "by_c"), ("by_b",))] * 8
    assert [tuple(stack[: stack.index("main") + 1]) for stack in seen.stacks] == usual + unusual
    assert all(seen.outermost)
    assert seen.states[0].memo_misses < 1000


def test_guesses_end_with_their_library(agent: Path, build: Build, tmp_path: Path) -> None:
    found: list[tuple[list[int], bool]] = []

    def look(process: Process) -> None:
        found.append(([process.record(block)[0] for block in process.words("blocks", 20)], follows(process)))

    with Parent(agent, look) as parent:
        assert parent.run(build("follows.c", "-O2", "-ldl"), "libraries", *same_place(tmp_path)).returncode == 0
    sites, has_followed = found[0]
    assert has_followed
    assert all(sites)
    assert not set(sites[0::2]) & set(sites[1::2])


@pytest.mark.parametrize("what", ["coroutines", "signals", "threads"])
def test_guesses_on_other_stacks(agent: Path, build: Build, what: str) -> None:
    """Nothing is read that may not be mapped, and nothing is taken for another stack."""
    seen = Seen({"coroutines": 400, "signals": 1, "threads": 128}[what])
    with Parent(agent, seen) as parent:
        assert parent.run(build("follows.c", "-O2", "-pthread"), what).returncode == 0
    outer = {"coroutines": "on_stack", "threads": "in_thread"}
    if what in outer:
        ways = sorted((*stack[: stack.index("in_turn")], stack[stack.index("in_turn") + 1]) for stack in seen.stacks)
        assert ways == sorted(("leaf", "common", *way, outer[what]) for way in ORDER * (len(seen.stacks) // 4))


@pytest.mark.parametrize("what", ["order", "libraries", "coroutines", "signals", "threads"])
def test_guesses_against_walks(checking_agent: Path, tmp_path: Path, build: Build, what: str) -> None:
    with Parent(checking_agent, Seen()) as parent:
        done = parent.run(build("follows.c", "-O2", "-ldl", "-pthread"), what, *same_place(tmp_path))
    assert done.returncode == 0
    said = done.stderr.split()
    assert done.stderr.endswith(" guessed, 0 differ\n"), done.stderr
    assert int(said[said.index("guessed,") - 1]) > int(said[said.index("checked,") - 1]) // 4


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        [sys.executable, "-c", "import json; [json.loads(json.dumps({str(i): [i] * 5 for i in range(2000)})) for _ in range(20)]"],
        [sys.executable, "-m", "test", "test_re", "test_dict", "test_list", "test_threading_local"],
        ["perl", "-e", "for (1..10000) { push @a, [1..10]; $h{$_} = {a => 1} }"],
        ["git", "--version"],
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "/dev/null", "-subj", "/CN=a", "-out", "/dev/null"],
        [sys.executable, "-c", SQLITE],
        ["gcc", "-O2", "-c", str(TARGETS / "traps.c"), "-o", "/dev/null"],
        [
            "sqlite3",
            ":memory:",
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 99999) SELECT sum(i) FROM n;",
        ],
        ["sh", "-c", REDIS],
    ],
    ids=lambda command: f"{Path(command[0]).name}-{command[1][:5]}",
)
def test_remembered_against_walks_in_the_wild(checking_agent: Path, command: list[str]) -> None:
    needed = "redis-server" if REDIS in command else command[0]
    if shutil.which(needed) is None:
        pytest.skip(f"{needed} is not installed")
    with Parent(checking_agent, Seen()) as parent:
        done = parent.run(*command, PYTHONMALLOC="malloc", timeout=300)
    assert done.returncode == 0
    checks = [line for line in done.stderr.splitlines() if line.startswith("leakline agent: ")]
    assert checks
    assert all(line.endswith(" guessed, 0 differ") for line in checks), checks


ENDS = {"return": 0, "exit": 3, "_exit": 4, "_Exit": 5, "thread": 6, "quick_exit": 7, "busy": 8, "two": 6, "errno": 16}


@pytest.mark.parametrize("what", ENDS)
def test_ends(agent: Path, build: Build, what: str) -> None:
    seen = Seen(2)
    with Parent(agent, seen) as parent:
        assert parent.run(build("agent_ends.c"), what).returncode == ENDS[what]
    assert len(seen.states) == 1
    state = seen.states[0]
    assert state.phase == WAITING
    assert state.exit_status == ENDS[what]
    assert state.waiting_tid
    assert state.waiting_sp
    assert len(parent.heard("start")) == len(parent.heard("exit")) == 1
    if what in ("exit", "return", "thread"):
        assert seen.sizes == [55, 77]  # destructors have run


@pytest.mark.parametrize("what", ["abort", "assert", "double free", "raise", "killed by ABRT"])
def test_abort(agent: Path, build: Build, what: str) -> None:
    """Also by glibc itself, which does not call abort(3) by its name."""
    seen = Seen(1)
    with Parent(agent, seen) as parent:
        assert parent.run(build("agent_ends.c"), what).returncode == -signal.SIGABRT
    assert [state.exit_status for state in seen.states] == [-1]
    assert seen.sizes == [55]


def test_a_program_that_handles_aborts(agent: Path, build: Build) -> None:
    seen = Seen()
    with Parent(agent, seen) as parent:
        done = parent.run(build("agent_ends.c"), "handles ABRT")
    assert (done.returncode, done.stdout) == (17, "handled\n")
    assert [state.exit_status for state in seen.states] == [17]


@pytest.mark.parametrize(("what", "status", "exits"), [("fork", 9, 2), ("vfork", 10, 1), ("spawn", 3, 2), ("exec", 3, 1)])
def test_children(agent: Path, build: Build, what: str, status: int, exits: int) -> None:
    seen = Seen(3 if what == "fork" else 0)
    with Parent(agent, seen) as parent:
        assert parent.run(build("agent_ends.c"), what).returncode == status
    assert len(parent.heard("exit")) == exits
    assert len(parent.heard("start")) == (1 if what == "vfork" else 2)
    if what == "fork":
        assert 66 in seen.sizes


@pytest.mark.parametrize(
    ("follow", "what", "exits"), [("exec", "fork", 1), ("exec", "spawn", 2), ("none", "spawn", 1), ("none", "fork", 1)]
)
def test_which_children_report(agent: Path, build: Build, follow: str, what: str, exits: int) -> None:
    """The parent knows the first process's pid only by starting it: by a shell that becomes it."""
    program = build("agent_ends.c")
    with Parent(agent, Seen()) as parent:
        script = 'export LEAKLINE_AGENT_ROOT=$$ LD_PRELOAD="$AGENT"; exec "$@"'
        command = ["sh", "-c", script, "sh", program, what]
        parent.run(*command, LEAKLINE_AGENT_FOLLOW=follow, LD_PRELOAD="", AGENT=str(agent))
    assert len(parent.heard("exit")) == exits


def test_every_descriptor_closed_or_taken(agent: Path, build: Build) -> None:
    seen = Seen()
    with Parent(agent, seen) as parent:
        assert parent.run(build("agent_ends.c"), "close").returncode == 11
        assert parent.run(build("agent_ends.c"), "exhaust").returncode == 12  # none is left for the socket: it just ends
    assert len(seen.states) == 1


@pytest.mark.parametrize(("what", "status"), [("limit", 13), ("data", 14), ("lock", 15)])
def test_limits_of_memory(agent: Path, build: Build, what: str, status: int) -> None:
    seen = Seen(3)
    with Parent(agent, seen) as parent:
        assert parent.run(build("agent_ends.c"), what).returncode == status
    assert seen.sizes[0] == 55
    assert seen.states[0].phase == WAITING


@pytest.mark.parametrize(("kilobytes", "has_records"), [(1000000, True), (200000, True), (30000, False)])
def test_too_little_address_space(agent: Path, build: Build, kilobytes: int, has_records: bool) -> None:
    """A table takes the place of the shadow; without room for that, the program runs as it is."""
    seen = Seen(2 if has_records else 0)
    with Parent(agent, seen) as parent:
        script = f'ulimit -v {kilobytes}; LD_PRELOAD="$AGENT" exec "$@"'
        assert parent.run("sh", "-c", script, "sh", build("agent_ends.c"), "exit", LD_PRELOAD="", AGENT=str(agent)).returncode == 3
    state = seen.states[0]
    assert not state.other_allocator
    if has_records:
        assert (state.phase, state.shadow, seen.sizes) == (WAITING, 0, [55, 77])
        assert seen.stacks[0][0] == "main"
    else:
        assert state.phase == OFF
        assert "RLIMIT_AS" in state.why_off


def test_table_of_live_blocks(agent: Path, build: Build) -> None:
    """Many threads that allocate and free at once: what is left is what is live."""
    live: list[int] = []

    def look(process: Process) -> None:
        assert process.state().allocations >= 16 * 20000
        live.append(len(process.live()))

    with Parent(agent, look) as parent:
        script = 'ulimit -v 4000000; LD_PRELOAD="$AGENT" exec "$@"'
        program = build("stacks.c", "-O1")
        assert parent.run("sh", "-c", script, "sh", program, "at-once", "16", LD_PRELOAD="", AGENT=str(agent)).returncode == 0
    assert live[0] < 200


@pytest.mark.parametrize("library", ["libjemalloc.so.2", "libtcmalloc_minimal.so.4", "libmimalloc.so.2.0"])
def test_table_under_other_allocators(agent: Path, build: Build, library: str) -> None:
    seen = Seen(15)
    with Parent(agent, seen) as parent:
        done = parent.run(build("allocates.c", "-O2"), LD_PRELOAD=f"{agent}:{library}")
    assert (done.returncode, done.stderr) == (0, "")
    state = seen.states[0]
    assert (state.phase, state.shadow) == (WAITING, 0)
    assert state.other_allocator
    assert library.split(".")[0] in state.why_off
    assert seen.sizes == list(ENTRIES.values())
    assert all(stack[-1] == "_start" for stack in seen.stacks)


def test_another_allocator(agent: Path, build: Build, tmp_path: Path) -> None:
    """It serves the program as it would without us, and its own free gets what is its own."""
    library = tmp_path / "libother.so"
    source = str(TARGETS / "other_allocator.c")
    subprocess.run(["gcc", "-O1", "-fno-builtin", "-shared", "-fPIC", source, "-o", str(library)], check=True)
    seen = Seen(2)
    with Parent(agent, seen) as parent:
        done = parent.run(build("agent_ends.c"), "exit", LD_PRELOAD=f"{agent}:{library}")
        assert done.returncode == 3
    state = seen.states[0]
    assert state.other_allocator
    assert "libother" in state.why_off
    assert seen.sizes == [55, 77]


def test_an_allocator_in_front(agent: Path, build: Build, tmp_path: Path) -> None:
    """The program never calls the agent's functions: nothing is recorded."""
    library = tmp_path / "libother.so"
    source = str(TARGETS / "other_allocator.c")
    subprocess.run(["gcc", "-O1", "-fno-builtin", "-shared", "-fPIC", source, "-o", str(library)], check=True)
    seen = Seen()
    with Parent(agent, seen) as parent:
        assert parent.run(build("agent_ends.c"), "exit", LD_PRELOAD=f"{library}:{agent}").returncode == 3
    assert seen.states[0].phase == OFF
    assert "libother" in seen.states[0].why_off
    assert seen.states[0].allocations == 0


@pytest.mark.skipif(Path("/proc/sys/kernel/core_pattern").read_text() != "core\n", reason="cores are not plain files here")
def test_core_dumps_hold_none_of_the_tables(agent: Path, build: Build, tmp_path: Path) -> None:
    """Only the library itself is in them."""
    sizes: list[int] = []
    for preload in ("", str(agent)):
        folder = tmp_path / f"core{len(sizes)}"
        folder.mkdir()
        script = 'ulimit -c unlimited; cd "$1"; LD_PRELOAD="$2" exec "$3" dump'
        done = subprocess.run(["sh", "-c", script, "sh", folder, preload, build("agent_ends.c")], check=False)
        assert done.returncode == -signal.SIGABRT
        sizes += [sum(file.stat().st_blocks * 512 for file in folder.iterdir())]
    assert sizes[0] > 10_000_000
    assert sizes[1] - sizes[0] < 256 << 10


def test_a_tree_that_make_builds(agent: Path, tmp_path: Path) -> None:
    """Every process of it reports, and the result is the same."""
    names = [f"part{i}" for i in range(6)]
    for name in names:
        (tmp_path / f"{name}.c").write_text(f"int {name}(void) {{ return 1; }}\n")
    (tmp_path / "Makefile").write_text(f"parts.a: {' '.join(f'{name}.o' for name in names)}\n\tar rcs $@ $^\n")
    seen = Seen()
    with Parent(agent, seen) as parent:
        done = parent.run("make", "-s", "-j3", "-C", tmp_path, "MAKEFLAGS=-j3")
    assert (done.returncode, done.stderr) == (0, "")
    listed = subprocess.run(["ar", "t", tmp_path / "parts.a"], capture_output=True, text=True, check=True)
    assert listed.stdout.split() == [f"{name}.o" for name in names]
    assert len(seen.pids) >= 1 + 6 + 1  # make, each cc1, ar
    assert {state.phase for state in seen.states} == {WAITING}


def test_nobody_answers(agent: Path, build: Build) -> None:
    with Parent(agent, Seen(), answers=False) as parent:
        began = time.monotonic()
        assert parent.run(build("agent_ends.c"), "exit", LEAKLINE_AGENT_PATIENCE="1").returncode == 3
        assert 0.9 < time.monotonic() - began < 10


def test_nobody_listens(agent: Path, build: Build, tmp_path: Path) -> None:
    program = build("agent_ends.c")
    for path in (str(tmp_path / "nothing"), "x" * 300, ""):
        environment = {**os.environ, "LD_PRELOAD": str(agent), "LEAKLINE_AGENT_SOCKET": path}
        began = time.monotonic()
        assert subprocess.run([str(program), "exit"], env=environment, check=False, timeout=20).returncode == 3
        assert time.monotonic() - began < 5


def test_a_signal_still_ends_a_process_that_waits(agent: Path, build: Build) -> None:
    with Parent(agent, lambda _: None, answers=False) as parent, socket.socket() as unused:
        program = subprocess.Popen([str(build("agent_ends.c")), "exit"], env=parent.environment())
        wait_for(lambda: parent.heard("exit"))
        program.terminate()
        assert program.wait(10) == -signal.SIGTERM
        unused.close()


def test_own_memory_and_counters(agent: Path, build: Build) -> None:
    seen = Seen()
    with Parent(agent, seen) as parent:
        assert parent.run(build("stacks.c", "-O2", "-fno-optimize-sibling-calls"), "varied").returncode == 0
    state = seen.states[0]
    assert state.allocations >= 4096
    assert state.memo_hits + state.memo_misses == state.allocations
    assert any(start <= state.shadow < end for start, end in state.own)
    assert 0 < state.shadow_enabled < 64 << 20
    assert state.why_off == ""
