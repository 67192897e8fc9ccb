"""Parsers of the kernel's files about its own memory: three captured kernels, odd lines, damage."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakline.errors import NotPossible, ParseError, PermissionNeeded
from leakline.sources.allocinfo import parse_allocinfo
from leakline.sources.free_pages import parse_buddyinfo, parse_pagetypeinfo, unusable_shares
from leakline.sources.kernel_stacks import parse_call
from leakline.sources.kernel_symbols import parse_kallsyms
from leakline.sources.kmem_events import parse_format
from leakline.sources.machine import Machine
from leakline.sources.page_owner import parse_page_owner, parse_show_stacks
from leakline.sources.slab_traces import parse_slab_traces
from leakline.sources.slabinfo import parse_slabinfo, read_aliases
from leakline.sources.system_files import parse_vmstat
from leakline.sources.vmallocinfo import parse_vmallocinfo

FIXTURES = Path(__file__).parents[1] / "fixtures"
KERNELS = ("6.12-x86", "6.12-uml", "6.18-x86")
LEAKING = ("6.12-x86", "6.12-uml")


def _read(kernel: str, name: str) -> bytes:
    return (FIXTURES / kernel / name).read_bytes()


@pytest.mark.parametrize("kernel", KERNELS)
def test_free_blocks_add_up_to_what_is_free(kernel: str) -> None:
    areas = parse_buddyinfo(_read(kernel, "t0.buddyinfo"), 4096)
    assert areas
    for area in areas:
        assert area.free == sum(count << order for order, count in enumerate(area.blocks)) * 4096
        assert area.unusable[0] == 0
        assert list(area.unusable) == sorted(area.unusable)
    free = parse_vmstat(_read(kernel, "t0.vmstat"))["nr_free_pages"] * 4096
    # The files were read one after the other.
    assert abs(sum(area.free for area in areas) - free) < 128 << 20


def test_fragmentation_is_told_by_order() -> None:
    assert unusable_shares((8, 4, 0, 1)) == (0, 33, 67, 67)
    assert unusable_shares((0, 0)) == (0, 0)
    assert unusable_shares((1 << 20, 0, 0)) == (0, 100, 100)


@pytest.mark.parametrize("kernel", KERNELS)
def test_page_types(kernel: str) -> None:
    rows = parse_pagetypeinfo(_read(kernel, "t0.pagetypeinfo"), 4096)
    assert {"Unmovable", "Movable", "Reclaimable"} <= {row.kind for row in rows}
    assert sum(row.page_blocks or 0 for row in rows) > 0
    zones = {(area.node, area.zone): area.free for area in parse_buddyinfo(_read(kernel, "t0.buddyinfo"), 4096)}
    for zone, free in zones.items():
        held = sum(row.free for row in rows if (row.node, row.zone) == zone)
        assert abs(held - free) < max(128 << 20, free // 10)


def test_more_free_blocks_than_the_kernel_counts() -> None:
    data = b"Node    0, zone   Normal, type    Unmovable >100000 1 0 \n"
    (row,) = parse_pagetypeinfo(data, 4096)
    assert (row.free_blocks, row.page_blocks) == ((100000, 1, 0), None)


@pytest.mark.parametrize("kernel", KERNELS)
def test_vmalloc_by_caller(kernel: str) -> None:
    rows = parse_vmallocinfo(_read(kernel, "t0.vmallocinfo"), 4096)
    assert sum(row.areas for row in rows) == len(_read(kernel, "t0.vmallocinfo").splitlines())
    assert all(row.bytes <= row.reserved for row in rows)
    assert [row.bytes for row in rows] == sorted((row.bytes for row in rows), reverse=True)


@pytest.mark.parametrize("kernel", LEAKING)
def test_a_module_that_leaks_vmalloc_stands_out(kernel: str) -> None:
    before, after = ({row.caller: row for row in parse_vmallocinfo(_read(kernel, f"{t}.vmallocinfo"), 4096)} for t in ("t0", "t2"))
    leaked = after["leak_one_vmalloc"]
    assert "leak_one_vmalloc" not in before
    assert (leaked.module, leaked.areas, leaked.bytes) == ("leakdrv", 40, 40 * 65536)


@pytest.mark.parametrize("kernel", LEAKING)
def test_allocinfo_tells_lines_and_modules(kernel: str) -> None:
    before, after = (
        {(site.stack[0].function, site.stack[0].line): site for site in parse_allocinfo(_read(kernel, f"{t}.allocinfo"))}
        for t in ("t0", "t2")
    )
    (leaked,) = [site for (function, _), site in after.items() if function == "leak_one_kmalloc"]
    frame = leaked.stack[0]
    assert (frame.module, frame.line, Path(frame.file or "").name) == ("leakdrv", 21, "leakdrv.c")
    # kmalloc(256): with slub_debug=U an object and its stacks take 512.
    assert (leaked.bytes, leaked.blocks) == (2000 * 512, 2000)
    assert len(before) > 100


def test_allocinfo_of_later_kernels_has_words_behind() -> None:
    data = b"allocinfo - version: 2.0\n# head\n 4096 1 mm/percpu.c:9 func:pcpu_alloc accurate:no\n 1 1 a.c:1 [m] func:f \n"
    first, second = parse_allocinfo(data)
    assert (first.bytes, first.stack[0].function, second.stack[0].module) == (4096, "pcpu_alloc", "m")
    with pytest.raises(ParseError):
        parse_allocinfo(b"slabinfo - version: 2.1\n")
    with pytest.raises(ParseError):
        parse_allocinfo(b"allocinfo - version: 1.0\nmany few a.c:1 func:f\n")


@pytest.mark.parametrize("kernel", LEAKING)
def test_pages_by_stack(kernel: str) -> None:
    sites = parse_show_stacks(_read(kernel, "show_stacks"), 4096)
    leaked = [site for site in sites if any(frame.function == "leak_one_pages" for frame in site.stack)]
    # 256 single pages and 32 blocks of 16, twice.
    assert sum(site.blocks for site in leaked) == 2 * (256 + 32 * 16)
    assert all(site.bytes == site.blocks * 4096 for site in sites)


@pytest.mark.parametrize("kernel", LEAKING)
@pytest.mark.parametrize("piece", [7, 4096, 1 << 20])
def test_the_full_dump_comes_in_pieces(kernel: str, piece: int) -> None:
    data = _read(kernel, "page_owner")
    sites = parse_page_owner((data[at : at + piece] for at in range(0, len(data), piece)), 4096)
    assert sum(site.blocks for site in sites) == data.count(b"Page allocated")
    assert all(site.stack[0].function for site in sites)


@pytest.mark.parametrize("kernel", LEAKING)
def test_slab_traces(kernel: str) -> None:
    sites = parse_slab_traces(_read(kernel, "leakdrv_rec.alloc_traces"), "leakdrv_rec", 384)
    assert sum(site.blocks for site in sites) == 1000
    assert sum(site.bytes for site in sites) == 384_000
    assert all("leak_one_cache" in [frame.function for frame in site.stack] for site in sites)
    assert {frame.module for site in sites for frame in site.stack} == {"leakdrv", "vmlinux"}
    kmalloc = parse_slab_traces(_read(kernel, "kmalloc-256.alloc_traces"), "kmalloc-256", 256)
    assert sum(site.blocks for site in kmalloc if "leak_one_kmalloc" in {frame.function for frame in site.stack}) == 2000


def test_objects_without_a_trace_are_left_out() -> None:
    sites = parse_slab_traces(_read("6.12-x86", "kmalloc-32.free_traces"), "kmalloc-32", 32)
    assert sites
    assert all(site.blocks < 249 for site in sites)
    assert parse_slab_traces(b"No data\n", "x", 8) == ()
    with pytest.raises(ParseError):
        parse_slab_traces(b"what is this\n", "x", 8)


@pytest.mark.parametrize("kernel", KERNELS)
def test_slabs(kernel: str) -> None:
    assert sum(cache.bytes for cache in parse_slabinfo(_read(kernel, "t0.slabinfo"), 4096)) > 1 << 20


def test_aliases_are_the_names_that_share_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "kernel/slab"
    folder.mkdir(parents=True)
    for name in (":0001152", "TCP"):
        (folder / name).mkdir()
    for name in ("signal_cache", "UNIX"):
        os.symlink(":0001152", folder / name)
    aliases = read_aliases(Machine(sys=tmp_path))
    assert aliases == {"signal_cache": ("UNIX",), "UNIX": ("signal_cache",)}
    assert read_aliases(Machine(sys=tmp_path / "none")) == {}


def test_calls() -> None:
    call = parse_call(b"        leak_one_kmalloc+0x25/0x40 [leakdrv]")
    assert call is not None
    assert (call.function, call.offset, call.module, call.address) == ("leak_one_kmalloc", 0x25, "leakdrv", None)
    unknown = parse_call(b" 0xffffffffc0400123")
    assert unknown is not None
    assert (unknown.function, unknown.address) == (None, 0xFFFFFFFFC0400123)
    assert parse_call(b"<not-available>") is None


def test_symbols() -> None:
    data = b"ffffffff81000000 T _text\nffffffff81000100 t alloc_it\nffffffffc0000000 t leak\t[leakdrv]\nffffffff81000100 d data\n"
    symbols = parse_kallsyms(data)
    frame = symbols.frame(0xFFFFFFFF81000110)
    assert (frame.function, frame.offset, frame.module) == ("alloc_it", 0x10, "vmlinux")
    assert symbols.frame(0xFFFFFFFFC0000004).module == "leakdrv"
    assert symbols.frame(0x1000).function is None
    with pytest.raises(PermissionNeeded):
        parse_kallsyms(b"0000000000000000 T _text\n")
    with pytest.raises(NotPossible):
        parse_kallsyms(b"")


def test_formats_of_tracepoints() -> None:
    data = (
        b"name: kfree\nID: 655\nformat:\n\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n"
        b"\tfield:unsigned long call_site;\toffset:8;\tsize:8;\tsigned:0;\n"
        b"\tfield:const void * ptr;\toffset:16;\tsize:8;\tsigned:0;\n"
    )
    assert parse_format(data, "ptr") == (655, 16)
    with pytest.raises(NotPossible):
        parse_format(data, "pfn")


_PARSERS: tuple[tuple[str, Callable[[bytes], object]], ...] = (
    ("t0.buddyinfo", lambda data: parse_buddyinfo(data, 4096)),
    ("t0.pagetypeinfo", lambda data: parse_pagetypeinfo(data, 4096)),
    ("t0.vmallocinfo", lambda data: parse_vmallocinfo(data, 4096)),
    ("t2.allocinfo", parse_allocinfo),
    ("t0.vmstat", parse_vmstat),
    ("show_stacks", lambda data: parse_show_stacks(data, 4096)),
    ("page_owner", lambda data: parse_page_owner([data], 4096)),
    ("leakdrv_rec.alloc_traces", lambda data: parse_slab_traces(data, "leakdrv_rec", 384)),
    ("t0.slabinfo", lambda data: parse_slabinfo(data, 4096)),
)


@given(st.sampled_from(_PARSERS), st.data())
def test_damaged_files_are_parsed_or_refused(parser: tuple[str, Callable[[bytes], object]], data: st.DataObject) -> None:
    name, parse = parser
    whole = _read("6.12-x86", name)[:1500]
    at = data.draw(st.integers(0, len(whole)))
    damaged = whole[:at] + data.draw(st.binary(max_size=12)) + whole[at + data.draw(st.integers(0, 9)) :]
    with suppress(ParseError):
        parse(damaged)


@given(st.binary(max_size=300))
def test_nothing_but_an_error_comes_of_noise(data: bytes) -> None:
    for _, parse in _PARSERS:
        with suppress(ParseError):
            parse(data)
    parse_call(data)
    with suppress(NotPossible, PermissionNeeded):
        parse_kallsyms(data)
    with suppress(NotPossible):
        parse_format(data, "ptr")
