"""Makes things that the kernel keeps objects for: kernel_things.py KIND RATE FOLDER

Says READY, waits for a line, and makes RATE of them a second, until its stdin ends.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import resource
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

LONGEST_SECONDS = 40.0
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.shmat.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
FOLDER = sys.argv[3]
kept: list[Any] = []
undo: list[Callable[[], object]] = []
KINDS: dict[str, Callable[[int], object]] = {}


def checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def syscall(number: int, *arguments: object) -> int:
    return checked(libc.syscall(ctypes.c_long(number), *arguments))


def kind(make: Callable[[int], object]) -> Callable[[int], object]:
    KINDS[make.__name__] = make
    return make


def fill(send: Callable[[bytes], object], piece: int) -> None:
    try:
        while True:
            send(b"x" * piece)
    except BlockingIOError:
        return


@kind
def pipe(_n: int) -> object:
    return os.pipe()


@kind
def filled_pipe(_n: int) -> object:
    ends = os.pipe()
    os.set_blocking(ends[1], False)
    fill(lambda data: os.write(ends[1], data), 4096)
    return ends


@kind
def eventfd(_n: int) -> object:
    return os.eventfd(0)


@kind
def unix(_n: int) -> object:
    return socket.socketpair()


@kind
def unread_tcp(_n: int) -> object:
    server = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(server.getsockname())
    client.setblocking(False)
    accepted = server.accept()
    fill(client.send, 65536)
    return server, client, accepted


@kind
def tcp(_n: int) -> object:
    return socket.socket()


@kind
def udp(_n: int) -> object:
    return socket.socket(type=socket.SOCK_DGRAM)


@kind
def packet_ring(_n: int) -> object:
    ring = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    ring.setsockopt(263, 5, struct.pack("IIII", 1 << 16, 16, 2048, (1 << 16) * 16 // 2048))  # SOL_PACKET, PACKET_RX_RING
    return ring


@kind
def epoll_item(_n: int) -> object:
    if not kept:
        kept.extend((select.epoll(), os.eventfd(0)))
    descriptor = os.dup(kept[1])
    kept[0].register(descriptor, select.EPOLLIN)
    return descriptor


@kind
def inotify_mark(n: int) -> object:
    if not kept:
        kept.append(checked(libc.inotify_init()))
    path = f"{FOLDER}/{n}"
    with open(path, "w"):
        pass
    return checked(libc.inotify_add_watch(kept[0], path.encode(), 2))


@kind
def missing_name(n: int) -> object:
    return os.path.exists(f"{FOLDER}/no-such-file-{n}")


@kind
def page_table(n: int) -> object:
    if not kept:
        space = libc.mmap(None, 4096 << 21, 1, 0x4022, -1, 0)  # PROT_READ; MAP_PRIVATE, ANONYMOUS, NORESERVE
        libc.madvise(ctypes.c_void_p(space), ctypes.c_size_t(4096 << 21), 15)  # MADV_NOHUGEPAGE
        kept.append(space)
    return ctypes.string_at(kept[0] + (n << 21), 1)


@kind
def memfd(_n: int) -> object:
    file = os.memfd_create("kept")
    os.write(file, b"x" * (1 << 20))
    return file


@kind
def unlinked_file(n: int) -> object:
    path = f"/dev/shm/leakline-test-{os.getpid()}-{n}"
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    os.unlink(path)
    os.write(file, b"x" * (1 << 20))
    return file


@kind
def shared_memory(_n: int) -> object:
    number = checked(libc.shmget(0, 1 << 20, 0o1600))
    undo.append(lambda: libc.shmctl(number, 0, None))
    place = libc.shmat(number, None, 0)
    ctypes.memset(place, 1, 1 << 20)
    return libc.shmdt(ctypes.c_void_p(place))


@kind
def timer(_n: int) -> object:
    number = ctypes.c_int()
    return syscall(222, 1, None, ctypes.byref(number))


class BpfMap(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint) for name in ("type", "key_size", "value_size", "max_entries", "flags")]
    _fields_ += [("rest", ctypes.c_char * 100)]


class BpfElement(ctypes.Structure):
    _fields_ = [("fd", ctypes.c_uint), ("pad", ctypes.c_uint), *((n, ctypes.c_ulonglong) for n in ("key", "value", "flags"))]
    _fields_ += [("rest", ctypes.c_char * 80)]


def bpf(order: int, attributes: ctypes.Structure) -> int:
    return syscall(321, order, ctypes.byref(attributes), ctypes.sizeof(attributes))


@kind
def bpf_map(_n: int) -> object:
    return bpf(0, BpfMap(1, 4, 64, 10000, 0))


@kind
def bpf_percpu_map(_n: int) -> object:
    return bpf(0, BpfMap(6, 4, 64, 1000, 0))


@kind
def bpf_element(n: int) -> object:
    if not kept:
        kept.append(bpf(0, BpfMap(1, 8, 64, 1 << 17, 1)))  # BPF_F_NO_PREALLOC
    key, value = ctypes.c_ulonglong(n), ctypes.create_string_buffer(64)
    return bpf(2, BpfElement(kept[0], 0, ctypes.addressof(key), ctypes.addressof(value), 0))


@kind
def network_namespace(_n: int) -> object:
    checked(libc.unshare(0x40000000))
    return os.open("/proc/self/ns/net", os.O_RDONLY)


@kind
def zombie(_n: int) -> object:
    child = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    return child


@kind
def thread(_n: int) -> object:
    threading.stack_size(65536)
    waits = threading.Thread(target=time.sleep, args=(1000,), daemon=True)
    waits.start()
    return waits


@kind
def lock(n: int) -> object:
    if not kept:
        kept.append(os.open(f"{FOLDER}/locked", os.O_RDWR | os.O_CREAT))
    return fcntl.lockf(kept[0], fcntl.LOCK_EX | fcntl.LOCK_NB, 1, n * 2)


@kind
def mapping(n: int) -> object:
    if not kept:
        kept.append(libc.mmap(None, 1 << 28, 0, 0x22, -1, 0))
    return checked(libc.mprotect(ctypes.c_void_p(kept[0] + n * 8192), 4096, 1))


@kind
def mount(_n: int) -> object:
    if not kept:
        checked(libc.unshare(0x20000))
        checked(libc.mount(b"none", b"/", None, ctypes.c_ulong(0x4000 | 1 << 18), None))  # MS_REC, MS_PRIVATE
        kept.append(FOLDER)
    return checked(libc.mount(b"none", FOLDER.encode(), b"tmpfs", ctypes.c_ulong(0), None))


@kind
def perf_ring(_n: int) -> object:
    attributes = ctypes.create_string_buffer(struct.pack("IIQQQQ", 1, 112, 9, 0, 0, 0).ljust(112, b"\0"), 112)  # a dummy event
    file = syscall(298, attributes, 0, -1, -1, 0)
    return file, mmap.mmap(file, 4096 * 129)


@kind
def io_uring(_n: int) -> object:
    return syscall(425, 256, ctypes.create_string_buffer(120))


@kind
def removed_group(n: int) -> object:
    base = f"/sys/fs/cgroup/memory/leakline-test-{os.getpid()}"
    path, file = f"{base}/{n}", f"/dev/shm/leakline-test-{os.getpid()}-{n}"
    if not kept:
        os.mkdir(base)
        undo.append(lambda: os.rmdir(base))
        kept.append(base)
    os.mkdir(path)
    child = os.fork()
    if not child:
        with open(f"{path}/cgroup.procs", "w") as procs:
            procs.write(str(os.getpid()))
        os.write(os.open(file, os.O_RDWR | os.O_CREAT), b"x" * 4096)
        os._exit(0)
    os.waitpid(child, 0)
    undo.insert(0, lambda: os.unlink(file))
    os.rmdir(path)
    return None


def main() -> None:
    make, rate = KINDS[sys.argv[1]], float(sys.argv[2])
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print("READY", flush=True)
    sys.stdin.readline()
    began, made = time.monotonic(), 0
    try:
        while not select.select([sys.stdin], [], [], 0.05)[0]:
            due = int(min(time.monotonic() - began, LONGEST_SECONDS) * rate)
            while made < due:  # one by one: the first is there when the second is made
                try:
                    one = make(made)
                except OSError as error:
                    if error.errno != errno.EMFILE:
                        raise
                    break  # no more descriptors: it keeps what it has
                kept.append(one)
                made += 1
    finally:
        for give_back in undo:
            give_back()


main()
