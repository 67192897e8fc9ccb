"""What the agent costs: CPU time with it against without, of programs that do little but allocate, and its memory."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from leakline.native.parts import part_path

PAIRS = 5
PROGRAM = """
#include <alloca.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#define ALONE __attribute__((noinline, noclone))
#define STAY __asm__ volatile("")
static __thread void *slots[4096];
static __thread unsigned seed = 1;
ALONE void f5(void)
{
	seed = seed * 1103515245 + 12345;
	unsigned slot = seed >> 16 & 4095;
	free(slots[slot]);
	slots[slot] = malloc(16 + (seed >> 8) % 496);
	*(char *)slots[slot] = 1;
}
ALONE void f4(void) { f5(); STAY; }
ALONE void f3(void) { f4(); STAY; }
ALONE void f2(void) { f3(); STAY; }
ALONE void f1(void) { f2(); STAY; }
ALONE void below(unsigned size) { volatile char *p = alloca(size); p[0] = 1; f1(); }
ALONE void way(unsigned depth, unsigned bits)
{
	if (!depth) {
		f5();
	} else if (bits & 1) {
		way(depth - 1, bits >> 1);
		__asm__ volatile("nop");
	} else {
		way(depth - 1, bits >> 1);
		__asm__ volatile("nop; nop");
	}
}
static void *loop(void *count) { for (long i = 0; i < (long)count; i++) f1(); return NULL; }
ALONE void one_below(unsigned size)
{
	volatile char *p = alloca(size);
	char *volatile block = malloc(10);
	p[0] = *block = 1;
	free(block);
}
static void *few(void *count)
{
	for (long i = 0; i < (long)count; i++)
		one_below(16 * (1 + i % 600));
	return NULL;
}
static void in_threads(void *(*function)(void *), long threads, long count)
{
	pthread_t thread[threads];
	for (long i = 0; i < threads; i++)
		pthread_create(&thread[i], NULL, function, (void *)count);
	for (long i = 0; i < threads; i++)
		pthread_join(thread[i], NULL);
}
int main(int n, char **arguments)
{
	const char *what = arguments[1];
	long count = atol(arguments[2]);
	unsigned random = 7;
	if (!strcmp(what, "loop"))
		loop((void *)count);
	else if (!strcmp(what, "two-threads"))
		in_threads(loop, 2, count);
	else if (!strcmp(what, "churn"))
		for (long i = 0; i < count; i++)
			in_threads(few, 1, 3000);
	else if (!strcmp(what, "keep"))
		for (long i = 0; i < count; i++)
			*(char *)malloc(24) = 1;
	for (long i = 0; i < count; i++) {
		random = random * 1664525 + 1013904223;
		if (!strcmp(what, "varied"))
			way(atoi(arguments[3]), random >> 8 & 4095);
		else if (!strcmp(what, "alloca"))
			below(16 + (random >> 10) % 300 * 16);
		else
			break;
	}
}
"""
FUNCTION = """
struct sN { int a, b[16]; struct sN *next; };
static int helpN(struct sN *s, int n)
{
	int sum = 0;
	for (struct sN *p = s; p; p = p->next)
		for (int i = 0; i < n && i < 16; i++)
			sum += p->b[i] * (i + N) ^ p->a;
	return sum;
}
int workN(struct sN *s, int n)
{
	switch (n % 5) {
	case 0: return helpN(s, n);
	case 1: return helpN(s->next, n / 2) + N;
	case 2: s->a = helpN(s, 3); return s->a;
	case 3: for (int i = 0; i < 16; i++) s->b[i] = i * n; return 0;
	default: return n > N ? helpN(s, n - 1) : -1;
	}
}
"""
TEMPLATES = """
#include <functional>
#include <iostream>
#include <map>
#include <regex>
#include <unordered_map>
#include <vector>
int main()
{
	std::map<std::string, std::vector<int>> a;
	std::unordered_map<int, std::string> b;
	std::regex c("a+b(c|d)*");
	for (int i = 0; i < 100; i++) {
		a[std::to_string(i)].push_back(i);
		b[i] = "x";
	}
	std::function<int(int)> f = [&](int x) { return x + 1; };
	std::cout << std::regex_match("aabc", c) << a.size() << b.size() << f(2);
}
"""
JSON = """
import json, random
random.seed(1)
data = [{"a": random.random(), "b": str(i), "c": [i] * 5, "d": {"x": i}} for i in range(20000)]
for _ in range(6):
    back = json.loads(json.dumps(data))
    back.sort(key=lambda row: row["a"])
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        source, program = Path(name) / "loads.c", str(Path(name) / "loads")
        source.write_text(PROGRAM)
        subprocess.run(["cc", "-O2", "-w", "-pthread", "-o", program, str(source)], check=True)
        compare("loop, 10 frames", [program, "loop", "20000000"])
        compare("loop in two threads", [program, "two-threads", "10000000"])
        for python in filter(None, (sys.executable, shutil.which("python3", path="/usr/bin"))):
            compare(f"{python}, json", [python, "-c", JSON], PYTHONMALLOC="malloc")
        compare("4096 paths of 12 frames", [program, "varied", "3000000", "12"])
        compare("4096 paths of 50 frames", [program, "varied", "1000000", "50"])
        compare("below alloca frames of 300 sizes", [program, "alloca", "5000000"])
        compare("2000 threads in turn", [program, "churn", "2000"])
        compare("10000 threads in turn", [program, "churn", "10000"], pairs=1)
        compare("8 M blocks of 24 bytes, kept", [program, "keep", "8000000"])
        real_programs(Path(name))
        start_up()


def real_programs(folder: Path) -> None:
    """What people run: a compiler, a database in a file, a server."""
    source = folder / "large.c"
    source.write_text("".join(FUNCTION.replace("N", str(number)) for number in range(300)))
    compare("gcc -O2 of 6,900 lines", [shutil.which("gcc") or "gcc", "-O2", "-c", "-o", str(folder / "large.o"), str(source)])
    templates = folder / "templates.cpp"
    templates.write_text(TEMPLATES)
    compare("g++ -O2 of templates", [shutil.which("g++") or "g++", "-O2", "-c", "-o", str(folder / "templates.o"), str(templates)])
    sqlite, redis = shutil.which("sqlite3"), shutil.which("redis-server")
    if sqlite is None or redis is None:
        print("sqlite3 and redis-server are not installed: tools/install-packages bench", file=sys.stderr)
        return
    rows = 1_000_000
    script = (
        "PRAGMA synchronous=OFF; DROP TABLE IF EXISTS t; CREATE TABLE t(a INTEGER, b TEXT);"
        f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})"
        " INSERT INTO t SELECT i, hex(randomblob(32)) FROM n; CREATE INDEX x ON t(b);"
    )
    database = folder / "database"
    compare("sqlite3, a table of a million rows and an index", [sqlite, str(database), script])
    print(f"  its file has {database.stat().st_size / 1e6:.0f} MB")
    library = str(part_path("libleakline-agent.so"))
    ratios = []
    for _ in range(PAIRS):
        bare, agent = serving(redis, {}), serving(redis, {"LD_PRELOAD": library})
        ratios.append(agent / bare)
    print(
        f"redis-server under redis-benchmark (its allocator is jemalloc: a table of live blocks): {statistics.median(ratios):.2f}"
        f" times the CPU (best {min(ratios):.2f})",
        flush=True,
    )


def serving(redis: str, more: dict[str, str]) -> float:
    """CPU seconds of a server while a client asks it."""
    with tempfile.TemporaryDirectory() as name:
        address = f"{name}/socket"
        command = [redis, "--port", "0", "--unixsocket", address, "--save", "", "--dir", name, "--logfile", f"{name}/log"]
        server = os.posix_spawn(command[0], command, {**os.environ, **more})
        while not Path(address).exists():
            time.sleep(0.01)
        client = ["redis-benchmark", "-s", address, "-q", "-n", "200000", "-r", "100000", "-t", "set,get,lpush,lpop,sadd,hset"]
        subprocess.run(client, check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["redis-cli", "-s", address, "shutdown", "nosave"], check=False, stdout=subprocess.DEVNULL)
        _, _, usage = os.wait4(server, 0)
        return usage.ru_utime + usage.ru_stime


def start_up() -> None:
    """Of a program that does nothing, without what Python needs to start: the agent, and the check at the end."""
    library = str(part_path("libleakline-agent.so"))
    bare, agent, checked = [], [], []
    leakline = str(Path(sys.executable).parent / "leakline")
    for _ in range(4 * PAIRS):
        bare.append(seconds(["/bin/true"], {}))
        agent.append(seconds(["/bin/true"], {"LD_PRELOAD": library}))
    for _ in range(PAIRS):
        with tempfile.NamedTemporaryFile() as out:
            subprocess.run([leakline, "run", "-q", "--json", "-f", "-o", out.name, "--", "/bin/true"], check=True)
            checked.append(json.loads(Path(out.name).read_bytes())["cost"]["duration_ns"] / 1e6)
    print(
        f"/bin/true takes {1000 * (statistics.median(agent) - statistics.median(bare)):.2f} ms longer with the agent; "
        f"with the check at its end {statistics.median(checked):.0f} ms from start to report (best {min(checked):.0f})",
        flush=True,
    )


def seconds(command: list[str], more: dict[str, str]) -> float:
    """From start to end."""
    began = time.perf_counter()
    subprocess.run(command, env={**os.environ, **more}, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def compare(name: str, command: list[str], pairs: int = PAIRS, **more: str) -> None:
    """Interleaved pairs, as other loads on the machine come and go."""
    library = str(part_path("libleakline-agent.so"))
    ratios, times, sizes = [], [], []
    for _ in range(pairs):
        bare, bare_size = measure(command, more)
        agent, agent_size = measure(command, {**more, "LD_PRELOAD": library})
        ratios.append(agent / bare)
        times.append(bare)
        sizes.append((bare_size, agent_size))
    without, with_agent = (statistics.median(column) for column in zip(*sizes, strict=True))
    print(
        f"{name}: {statistics.median(ratios):.2f} times the CPU (best {min(ratios):.2f}) of {statistics.median(times):.2f} s, "
        f"memory {without:.0f} -> {with_agent:.0f} MiB",
        flush=True,
    )


def measure(command: list[str], more: dict[str, str]) -> tuple[float, float]:
    """CPU seconds, and most memory in MiB."""
    child = os.posix_spawn(command[0], command, {**os.environ, **more})
    _, status, usage = os.wait4(child, 0)
    if status:
        sys.exit(f"{command[0]} ended with status {status}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


main()
