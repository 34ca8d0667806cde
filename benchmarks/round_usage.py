"""CPU seconds and peak memory of process trees, from /proc, sampled in a thread of the benchmark's."""

import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

PERIOD_SECONDS = 0.3
_TICKS = os.sysconf("SC_CLK_TCK")
_LEFT_OUT = (b"round_trainer.py",)


@dataclass(frozen=True)
class Usage:
    """What a tree of processes used up to a moment.

    Attributes:
        cpu_seconds: of all its processes, those that have ended included.
        peak_bytes: sum of the processes' peak resident memory (VmHWM): an upper bound, shared pages count twice.
        shared_bytes: sum of the processes' memory at that moment, pages of n processes counted 1/n in each (PSS); 0
            where it is not looked at.
    """

    cpu_seconds: float
    peak_bytes: int
    shared_bytes: int


@dataclass
class Tree:
    """One process and its descendants; training processes are left out.

    Attributes:
        root: its process id.
        shares: whether `Usage.shared_bytes` is wanted, which takes the system some milliseconds a look.
    """

    root: int
    shares: bool = False
    _cpu: dict[int, float] = field(default_factory=dict)
    _peak: dict[int, int] = field(default_factory=dict)
    _ignored: set[int] = field(default_factory=set)

    def look(self, children: dict[int, list[int]]) -> Usage:
        """Adds what is there now to what was seen before."""
        waiting, shared = [self.root], 0
        while waiting:
            pid = waiting.pop()
            if pid in self._ignored or (pid not in self._cpu and pid != self.root and _is_trainer(pid)):
                self._ignored.add(pid)
                continue
            waiting += children.get(pid, [])
            try:
                self._cpu[pid], self._peak[pid] = _cpu_seconds(pid), _kilobytes(pid, "status", "VmHWM:")
                shared += _kilobytes(pid, "smaps_rollup", "Pss:") if self.shares else 0
            except (OSError, ValueError, IndexError):
                continue  # it has just ended: its last sample counts
        return Usage(sum(self._cpu.values()), sum(self._peak.values()), shared)

    def peaks(self) -> list[int]:
        """Peak resident memory of each process, largest first, bytes."""
        return sorted(self._peak.values(), reverse=True)


@dataclass
class Sampler:
    """Samples named trees until it is stopped.

    Attributes:
        trees: by name.
    """

    trees: dict[str, Tree]
    _samples: list[tuple[float, dict[str, Usage]]] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, name="usage", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def cpu_between(self, name: str, begin: float, end: float) -> float:
        """CPU seconds of a tree between two moments, seconds since 1970; between samples on a straight line."""
        return self._cpu_at(name, end) - self._cpu_at(name, begin)

    def peak_bytes(self, name: str) -> int:
        """Peak memory of a tree so far."""
        return max((usages[name].peak_bytes for _, usages in self._samples), default=0)

    def shared_bytes(self, name: str) -> int:
        """The largest sum of a tree's shares of memory that was seen."""
        return max((usages[name].shared_bytes for _, usages in self._samples), default=0)

    def _cpu_at(self, name: str, moment: float) -> float:
        before: tuple[float, float] | None = None
        for when, usages in self._samples:
            cpu = usages[name].cpu_seconds
            if when >= moment:
                if before is None:
                    return cpu
                share = (moment - before[0]) / max(1e-9, when - before[0])
                return before[1] + share * (cpu - before[1])
            before = when, cpu
        return before[1] if before else 0.0

    def _run(self) -> None:
        while not self._ended.wait(PERIOD_SECONDS):
            children = _children()
            self._samples.append((time.time(), {name: tree.look(children) for name, tree in self.trees.items()}))


def _children() -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int(_stat(int(entry.name))[1])
            except (OSError, ValueError, IndexError):
                continue
            found.setdefault(parent, []).append(int(entry.name))
    return found


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on."""
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()


def _cpu_seconds(pid: int) -> float:
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _kilobytes(pid: int, file: str, name: str) -> int:
    """One line of a file of /proc/PID, in bytes."""
    for line in Path(f"/proc/{pid}/{file}").read_text(errors="replace").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return 0


def _is_trainer(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return any(name in command for name in _LEFT_OUT)
