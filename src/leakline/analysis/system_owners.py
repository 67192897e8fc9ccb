"""Where all of MemTotal is: owners that add up, and a remainder that nobody counts.

The kernel has many users of whole pages that no counter of /proc/meminfo shows (drivers, filled pipes, packet rings): they are
in the remainder, which moves by exactly what such a user takes.
"""

from __future__ import annotations

from collections.abc import Mapping

from leakline.model.system import Owner

UNEXPLAINED = "unexplained"
KERNEL_AMOUNTS = ("PageTables", "SecPageTables", "VmallocUsed", "Percpu", "KernelStack", "Shmem", "Hugetlb")
"""What no process accounts for; the other amounts of /proc/meminfo are sums of these, or page cache."""
# Name, the counters that make it up (those with a minus are inside the first), and what it is.
_OWNERS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("free", ("MemFree",), "unused"),
    ("anonymous", ("AnonPages",), "processes' own memory"),
    ("page cache", ("Cached", "-Shmem"), "files; given back when needed"),
    ("buffers", ("Buffers",), "block devices; given back when needed"),
    ("shared memory", ("Shmem",), "tmpfs, memfd, SysV and shared anonymous memory"),
    ("swap cache", ("SwapCached",), "in memory and in swap, and mapped by nobody"),
    ("slab, reclaimable", ("SReclaimable",), "dentries, inodes; given back when needed"),
    ("slab, unreclaimable", ("SUnreclaim",), "the kernel's objects"),
    ("other reclaimable", ("KReclaimable", "-SReclaimable"), "kernel memory that can be given back"),
    ("page tables", ("PageTables",), "of processes"),
    ("secondary page tables", ("SecPageTables",), "of virtual machines and IOMMUs"),
    ("vmalloc", ("VmallocUsed",), "kernel memory, the kernel stacks of threads among it"),
    ("percpu", ("Percpu",), "the kernel's per-CPU objects"),
    ("hugetlb", ("Hugetlb",), "reserved huge pages, used or not"),
    ("bounce buffers", ("Bounce",), "for devices that reach low memory only"),
    ("balloon", ("Balloon",), "given back to the hypervisor"),
    ("zswap", ("Zswap",), "compressed swap"),
)


def owners_of(amounts: Mapping[str, int], per_cpu_lists: int | None) -> tuple[Owner, ...]:
    """Owners that add up to MemTotal; the last one is `unexplained`.

    Args:
        amounts: /proc/meminfo, in bytes; counters that a kernel lacks are left out.
        per_cpu_lists: bytes on the CPUs' own free lists; None leaves them in the remainder.

    """
    owners = []
    for name, counters, note in _OWNERS:
        if counters[0] not in amounts:
            continue
        size = amounts[counters[0]] - sum(amounts.get(c[1:], 0) for c in counters[1:])
        if counters[0] == "SwapCached":
            size = _unmapped_swap_cache(amounts)
        owners.append(Owner(name=name, bytes=size, note=note))
    if per_cpu_lists is not None:
        owners.append(Owner(name="per-CPU free lists", bytes=per_cpu_lists, note="free, but not in MemFree"))
    stacks = amounts.get("KernelStack", 0)
    # With VMAP_STACK (x86 and others) the threads' kernel stacks are inside VmallocUsed.
    if stacks > amounts.get("VmallocUsed", 0):
        owners.append(Owner(name="kernel stacks", bytes=stacks, note="of threads"))
    rest = amounts["MemTotal"] - sum(owner.bytes for owner in owners)
    note = "pages that no counter shows: drivers, pipes, sockets, packet rings"
    if per_cpu_lists is None:
        note += "; and the per-CPU free lists, since /proc/zoneinfo could not be read"
    return (*owners, Owner(name=UNEXPLAINED, bytes=rest, note=note))


def unexplained(amounts: Mapping[str, int], per_cpu_lists: int | None) -> int:
    """MemTotal less all that a counter shows; as `owners_of`."""
    return owners_of(amounts, per_cpu_lists)[-1].bytes


def _unmapped_swap_cache(amounts: Mapping[str, int]) -> int:
    """Pages of the swap cache that AnonPages does not count too: a page that was read back is in both while it is mapped.

    The lists of reclaim hold each page once: anonymous ones, those of the swap cache, and shmem. What is locked in memory is on
    another list, whose kinds no counter tells apart: the result is off by at most what is locked that is not anonymous.
    """
    cached = amounts["SwapCached"]
    if not cached or not amounts.keys() >= {"Active(anon)", "Inactive(anon)", "AnonPages", "Shmem"}:
        return cached
    on_lists = amounts["Active(anon)"] + amounts["Inactive(anon)"] + amounts.get("Mlocked", 0)
    return min(cached, max(0, on_lists - amounts["Shmem"] - amounts["AnonPages"]))
