"""Whose things a growing counter of the kernel counts: whoever has more of what that counter is known to hold.

What is in which cache was seen by making each thing and watching what moved (`tests/real/test_kernel_things.py` does it again).
Caches are named as the kernel's source names them; where it has merged them, their aliases count too.
"""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatchcase

from leakline.model.kernel import Census, CounterOwner

_FILES = ("filp", "lsm_file_cache")
_WITH_INODE = (*_FILES, "dentry", "lsm_inode_cache")
_CHARGED = "page charged to the control group"
_SOCKET = (*_WITH_INODE, "sock_inode_cache", "skbuff_*", "unexplained")
_KEPT_IN: dict[str, tuple[str, ...]] = {
    "pipe end": (*_WITH_INODE, "inode_cache", "kmalloc*-1k", "kmalloc*-192", "unexplained"),
    "UNIX socket": (*_SOCKET, "UNIX*", "kmalloc*"),
    "TCP socket": (*_SOCKET, "TCP", "request_sock_TCP", "tw_sock_TCP", "kmalloc*"),
    "TCPv6 socket": (*_SOCKET, "TCPv6", "request_sock_TCPv6", "tw_sock_TCPv6", "kmalloc*"),
    "UDP socket": (*_SOCKET, "UDP", "kmalloc*"),
    "UDPv6 socket": (*_SOCKET, "UDPv6", "kmalloc*"),
    "PACKET socket": (*_SOCKET, "PACKET", "VmallocUsed", "kmalloc-2k"),
    "eventfd": (*_FILES, "dentry", "kmalloc*-64", "eventfd_ctx"),
    "epoll": (*_FILES, "eventpoll*"),
    "epoll item": ("eventpoll_epi", "eventpoll_pwq", "ep_head"),
    "inotify mark": ("inotify_inode_mark", "fsnotify_mark*", "*inode_cache", "dentry"),
    "fanotify mark": ("fanotify_mark", "fsnotify_mark*", "*inode_cache"),
    "POSIX timer": ("posix_timers_cache", "sigqueue"),
    "BPF map": ("VmallocUsed", "Percpu", "vmalloc:*map_alloc*", "vmalloc:bpf_*", "kmalloc*", "bpf*"),
    "BPF program": ("VmallocUsed", "vmalloc:bpf_*", "kmalloc*"),
    "network namespace": ("net_namespace", "proc_dir_entry", "kernfs_node_cache", "sock_inode_cache", "kmalloc*", "Percpu"),
    "thread": ("task_struct", "KernelStack", "VmallocUsed", "vmalloc:*clone*", "vmalloc:dup_task_struct", "signal_cache", "pid"),
    "zombie child": ("task_struct", "signal_cache", "sighand_cache", "pid", "cred_jar", "kmalloc*-16", "KernelStack"),
    "file lock": ("file_lock_cache", "file_lock_ctx", "file_lease_cache"),
    "mapping": ("vm_area_struct", "vma_lock", "maple_node", "anon_vma", "anon_vma_chain"),
    "mount in its namespace": ("mnt_cache", "shmem_inode_cache", "kmalloc*", "Percpu", "radix_tree_node", "dentry"),
    "memfd": ("Shmem", "shmem_inode_cache", "radix_tree_node", *_FILES),
    "unlinked file in memory": ("Shmem", "shmem_inode_cache", "radix_tree_node", *_FILES),
    "SysV shared memory": ("Shmem", "shmem_inode_cache", "radix_tree_node"),
    "page of page tables": ("PageTables",),
    "key": ("key_jar", "kmalloc*"),
    "control group that was removed, but is still held": ("mem_cgroup*", "kmalloc*", "Percpu", "kernfs_node_cache"),
    _CHARGED: ("kmalloc-cg-*", "slab:*", "vmalloc:*"),
    "perf event": (*_FILES, "perf_event", "unexplained", "VmallocUsed"),
    "io_uring": (*_FILES, "io_*", "unexplained", "kmalloc*", "VmallocUsed"),
    "open file": _FILES,
}
_OBJECTS_EACH = {
    "network namespace": 100,
    "control group that was removed, but is still held": 20,
    "io_uring": 8,
    "thread": 4,
    "mount in its namespace": 6,
}
"""How many objects of one cache a thing takes, where it is many."""
_MOST_OWNERS = 5
_LEAST_SHARE = 0.1
"""Of a counter's growth, by objects or bytes: who has less more than that is not its owner."""
_MOST_BYTES_EACH = 1 << 20
"""What a pipe, a socket, a ring may hold that no counter shows: nobody owns more of `unexplained` than that for each."""


def more_of(before: Census, after: Census) -> list[CounterOwner]:
    """Who has more things than before, the most first; who began meanwhile, all of its things."""
    found = []
    for (holder, what), things in after.items():
        old = before.get((holder, what))
        count = things.number - (old.number if old else 0)
        size = None if things.bytes is None else things.bytes - ((old.bytes or 0) if old else 0)
        if count > 0 or (size or 0) > 0:
            found.append(CounterOwner(pid=holder.pid, command=holder.command, what=what, count=max(count, 0), bytes=size))
    return sorted(found, key=lambda owner: (owner.pid is None, -owner.count))


def owners_of_counter(
    counter: str, aliases: Collection[str], growth: int, objects: int | None, more: Collection[CounterOwner]
) -> tuple[CounterOwner, ...]:
    """Those who have so much more of what the counter holds that they matter.

    Args:
        counter: its name.
        aliases: other caches in the same one.
        growth: bytes.
        objects: how many objects more, of a slab cache.
        more: who has more of anything, as `more_of` tells.

    """
    names = _names(counter, aliases)
    found = [owner for owner in more if _keeps(owner.what, names) and _matters(owner, growth, objects, counter)]
    named = any(owner.what != _CHARGED for owner in found)
    # All that a group is charged for its things says less than who has them.
    found = [owner for owner in found if not (owner.what == _CHARGED if named else _is_outer(owner, found))]
    found.sort(key=lambda owner: (owner.pid is None, -(owner.bytes or 0) if counter == "meminfo:Shmem" else 0, -owner.count))
    return tuple(found[:_MOST_OWNERS])


def _is_outer(owner: CounterOwner, others: Collection[CounterOwner]) -> bool:
    """Whether it is a control group, and most of its growth is that of one below it."""
    if owner.what != _CHARGED or owner.command is None:
        return False
    below = owner.command.rstrip("/") + "/"
    return any(
        other.what == _CHARGED and other is not owner and (other.command or "").startswith(below) and 2 * other.count > owner.count
        for other in others
    )


def _names(counter: str, aliases: Collection[str]) -> set[str]:
    kind, _, name = counter.partition(":")
    return {counter, *aliases, *((name,) if kind in ("slab", "meminfo") else ())}


def _keeps(what: str, names: Collection[str]) -> bool:
    patterns = _KEPT_IN.get(what)
    if patterns is None:  # an anonymous inode that is not in the table: it is a file at least
        patterns = _SOCKET if what.endswith(" socket") else _FILES
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in names)


def _matters(owner: CounterOwner, growth: int, objects: int | None, counter: str) -> bool:
    if counter == "unexplained":
        return owner.count * _MOST_BYTES_EACH >= _LEAST_SHARE * growth
    if owner.bytes is not None and owner.bytes >= _LEAST_SHARE * growth:
        return True
    if objects is None:
        return owner.bytes is None and owner.count > 0
    return owner.what != _CHARGED and owner.count * _OBJECTS_EACH.get(owner.what, 1) >= max(1.0, _LEAST_SHARE * objects)
