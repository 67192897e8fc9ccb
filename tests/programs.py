"""Small programs that tests of several rooms look at."""

from pathlib import Path

EXAMPLE = Path(__file__).parents[1] / "examples/leak-example.c"
CACHE = """
import collections, time
cache, number = collections.OrderedDict(), 0
for _ in range(3000):
    cache[number] = bytes(4000)
    number += 1
print("READY", flush=True)
while True:
    for _ in range(60):
        cache[number] = bytes(4000)
        number += 1
        cache.popitem(last=False)
    time.sleep(0.05)
"""
LEAK = """
import time
held = []
print("READY", flush=True)
while True:
    held.append(bytearray(100_000))
    time.sleep(0.1)
"""
