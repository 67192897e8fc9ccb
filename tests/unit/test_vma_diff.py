from __future__ import annotations

import msgspec

from leakline.analysis.vma_diff import diff_groups, diff_mappings, total_changes
from leakline.analysis.vma_kind import is_mmapped_chunk
from tests.unit.test_pictures import mapping


def test_new_gone_grown_and_unchanged() -> None:
    heap, stack, same = (
        mapping(0x1000, 0x3000, "heap", "[heap]"),
        mapping(0x9000, 0xA000, "stack", "[stack]"),
        mapping(0x20000, 0x21000),
    )
    gone, new = mapping(0x30000, 0x31000), mapping(0x40000, 0x42000)
    grown = msgspec.structs.replace(heap, end=0x5000, size=0x4000, uss=0x3000)
    deeper = msgspec.structs.replace(stack, start=0x8000, size=0x2000)
    changes = diff_mappings([heap, stack, same, gone], [grown, deeper, same, new])
    assert [(c.change, c.start, c.size, c.count) for c in changes] == [
        ("changed", 0x1000, 0x2000, 0),
        ("changed", 0x8000, 0x1000, 0),
        ("gone", 0x30000, -0x1000, -1),
        ("new", 0x40000, 0x2000, 1),
    ]
    total = total_changes(changes)
    assert (total.size, total.uss, total.count) == (0x4000, 0x2000, 0)
    assert diff_mappings([heap], [heap]) == []


def test_by_kind() -> None:
    before = [mapping(0x1000, 0x2000), mapping(0x8000, 0x9000, "heap", "[heap]")]
    after = [mapping(0x1000, 0x2000), mapping(0x3000, 0x4000), mapping(0x6000, 0x7000, "stack", "[stack]")]
    changes = {c.name: (c.change, c.count, c.size) for c in diff_groups(before, after, "kind")}
    assert changes == {"anon": ("changed", 1, 0x1000), "heap": ("gone", -1, -0x1000), "stack": ("new", 1, 0x1000)}


def test_headers_of_mmapped_chunks() -> None:
    room = 0x22000
    assert is_mmapped_chunk((0).to_bytes(8, "little") + (0x22002).to_bytes(8, "little"), room)
    for before, size in ((0, 0x22003), (0, 0x22000), (0, 0x23002), (16, 0x22002), (0, 0x1012), (0, 2)):
        assert not is_mmapped_chunk(before.to_bytes(8, "little") + size.to_bytes(8, "little"), room)
    assert not is_mmapped_chunk(b"short", room)
