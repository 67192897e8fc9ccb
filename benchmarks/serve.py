"""`serve`: what it takes of a core, without a client and with 200 that hear every look at 1 Hz."""

from __future__ import annotations

import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from peers import OURS

PROCESSES = 200
CLIENTS = 200
FIRST_SECONDS, SECONDS = 20, 40
SLEEPER = "import time;b=bytearray(1<<20);print(1,flush=True);time.sleep(900)"
GROWER = "import time;a=[];print(1,flush=True)\nwhile 1:a.append(bytearray(8192));time.sleep(.1)"


def cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def share_of(pid: int) -> float:
    time.sleep(FIRST_SECONDS)
    before = cpu_of(pid)
    time.sleep(SECONDS)
    return (cpu_of(pid) - before) / SECONDS


class Listeners:
    """Clients that read all that comes."""

    def __init__(self, port: int) -> None:
        self._selector = selectors.DefaultSelector()
        self._on = True
        self.bytes = self.looks = self.lost = 0
        for _ in range(CLIENTS):
            client = socket.create_connection(("127.0.0.1", port))
            client.sendall(f"GET /api/events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
            self._selector.register(client, selectors.EVENT_READ)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while self._on:
            for key, _ in self._selector.select(0.5):
                data = key.fileobj.recv(1 << 18)  # type: ignore[union-attr]
                if not data:
                    self.lost += 1
                    self._selector.unregister(key.fileobj)
                self.bytes += len(data)
                self.looks += data.count(b"event: tick")

    def close(self) -> None:
        """Hear no more."""
        self._on = False


def main() -> None:
    load = []
    for number in range(PROCESSES):
        code = GROWER if number % 10 == 0 else SLEEPER
        load.append(subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE))
    for process in load:
        process.stdout.readline()  # type: ignore[union-attr]
    server = subprocess.Popen([*OURS, "serve", "--port", "0", "-i", "1"], stderr=subprocess.PIPE, text=True)
    try:
        port = int(re.search(r":(\d+)/", server.stderr.readline())[1])  # type: ignore[union-attr, index]
        alone = share_of(server.pid)
        listeners = Listeners(port)
        shared = share_of(server.pid)
        status = Path(f"/proc/{server.pid}/status").read_text()
        peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) >> 10
        seconds = FIRST_SECONDS + SECONDS
        rate = listeners.bytes / CLIENTS / seconds / 1024
        listeners.close()
        print(f"serve, {PROCESSES}+ processes at 1 Hz, a tenth of which grow: {alone:.2%} of a core without a client")
        print(f"  with {CLIENTS} clients: {shared:.2%}, {peak} MiB at most; {listeners.lost} lost")
        print(f"  each heard {listeners.looks / CLIENTS / seconds:.2f} looks and {rate:.1f} KiB a second")
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()
        for process in load:
            process.kill()
            process.communicate()


main()
