"""Bytes that all connections to a local port carried, from the kernel's TCP counters (`ss`), sampled in a thread."""

import re
import shutil
import subprocess
import threading
import time
from types import TracebackType
from typing import Self

PERIOD_SECONDS = 0.5
_RECEIVED, _SENT = re.compile(r"bytes_received:(\d+)"), re.compile(r"bytes_sent:(\d+)")


class TcpBytes:
    """Counts while its `with` block runs; without the program `ss` it counts nothing.

    Args:
        port: the server's.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._connections: dict[str, tuple[int, int]] = {}
        self._samples: list[tuple[float, int, int]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tcp", daemon=True)

    def __enter__(self) -> Self:
        if shutil.which("ss"):
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()

    def between(self, begin: float, end: float) -> tuple[int, int]:
        """Bytes that the server received and sent between two moments, to the nearest samples."""
        if not self._samples:
            return 0, 0
        first = min(self._samples, key=lambda sample: abs(sample[0] - begin))
        last = min(self._samples, key=lambda sample: abs(sample[0] - end))
        return last[1] - first[1], last[2] - first[2]

    def _run(self) -> None:
        command = ["ss", "-tinH", "sport", "=", f":{self._port}"]
        while not self._ended.wait(PERIOD_SECONDS):
            lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
            for head, counters in zip(lines[::2], lines[1::2], strict=False):
                received, sent = _RECEIVED.search(counters), _SENT.search(counters)
                key = " ".join(head.split()[3:5])
                self._connections[key] = int(received[1]) if received else 0, int(sent[1]) if sent else 0
            totals = [sum(column) for column in zip(*self._connections.values(), strict=True)] or [0, 0]
            self._samples.append((time.time(), *totals))
