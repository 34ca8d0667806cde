"""Threads share heaps, so that what many of them freed is not kept by each."""

import platform
import subprocess
import sys

import pytest

_THREADS = 16
# Each thread takes and frees 6 MB, with small things between that stay: holes in the heap it took them from.
_HOLES = f"""
import sys
import threading
import psutil
from fedhe.allocator import share_heaps

if sys.argv[1] == "shared":
    share_heaps()
kept, turn, all_there = [], threading.Lock(), threading.Barrier({_THREADS})

def work():
    all_there.wait()  # a thread gets a heap of its own while others live
    with turn:
        large = []
        for _ in range(60):
            large.append(bytearray(100_000))
            kept.append(bytearray(3000))
        del large
    all_there.wait()

before = psutil.Process().memory_info().rss
threads = [threading.Thread(target=work) for _ in range({_THREADS})]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(psutil.Process().memory_info().rss - before)
"""


def grown(how):
    done = subprocess.run([sys.executable, "-c", _HOLES, how], capture_output=True, text=True, check=True, timeout=60)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc alone has this setting")
def test_many_threads_keep_no_more_than_two():
    assert grown("shared") < 30_000_000 < grown("as it is")
