"""What the server and the sites say about their work, kept for admins: a file for each source, read and followed.

Lines are JSON, one each, in `server.jsonl` and `site-NAME.jsonl`; a file that reaches its limit is set aside, and
the oldest goes. The log book is for people: unlike state and audit, a line may be lost when the disk is full.
"""

import asyncio
import contextlib
import heapq
import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from fedhe.server.one_line import one_line
from fedhe.wire.limits import MAX_LAST_LOG_LINES

SERVER = "server"
MAX_FILE_BYTES = 8 * 1024 * 1024
KEPT_FILES = 4
"""How many files a source has at most, the present one included."""
MAX_WAITING_LINES = 1000
"""Lines that wait for a follower who reads slowly; beyond, the oldest are left out for him."""
LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True)
class LogEntry:
    """One line: seconds since 1970, one of `LEVELS`, "server" or a site's name, the job or "", one line of text."""

    time: float
    level: str
    source: str
    job_id: str
    message: str


class LogBook:
    """The log files below one folder; `add` and `last` may be called from any thread, `follow` in the event loop."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._followers: set[Follower] = set()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def add(self, entries: Sequence[LogEntry]) -> None:
        """Keeps lines of one source, and hands them to followers."""
        if not entries:
            return
        clean = [_clean(entry) for entry in entries]
        text = "".join(json.dumps(asdict(entry), separators=(",", ":")) + "\n" for entry in clean)
        with self._lock, contextlib.suppress(OSError):  # a log line is never worth a failing call
            self._write(_file(self._folder, clean[0].source), text.encode())
        for follower in tuple(self._followers):
            follower.offer(clean)

    def last(self, count: int, source: str = "", job_id: str = "") -> list[LogEntry]:
        """The newest `count` lines of a source (all if empty) about a job (all if empty), oldest first."""
        count = min(count, MAX_LAST_LOG_LINES)
        if count <= 0:
            return []
        newest: list[LogEntry] = []
        for path in self._sources(source):
            chosen: deque[LogEntry] = deque(maxlen=count)
            for file in (*(_set_aside(path, n) for n in range(KEPT_FILES - 1, 0, -1)), path):
                chosen.extend(entry for entry in _read(file) if not job_id or entry.job_id == job_id)
            newest.extend(chosen)
        return sorted(heapq.nlargest(count, newest, key=lambda entry: entry.time), key=lambda entry: entry.time)

    def follow(self, source: str = "", job_id: str = "") -> "Follower":
        """Lines as they are added from now on, until `close` of the book or of the follower."""
        follower = Follower(asyncio.get_running_loop(), source, job_id, self._followers.discard)
        self._followers.add(follower)
        return follower

    def close(self) -> None:
        """Ends all followers."""
        for follower in tuple(self._followers):
            follower.end()

    def _sources(self, source: str) -> list[Path]:
        return [_file(self._folder, source)] if source else sorted(self._folder.glob("*.jsonl"))

    def _write(self, path: Path, data: bytes) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, data)
            size = os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
        if size > MAX_FILE_BYTES:
            for number in range(KEPT_FILES - 2, 0, -1):
                with contextlib.suppress(FileNotFoundError):
                    _set_aside(path, number).replace(_set_aside(path, number + 1))
            path.replace(_set_aside(path, 1))


class Follower:
    """An asynchronous iterator over new lines; see `LogBook.follow`."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, source: str, job_id: str, leave: "Callable[[Follower], None]"
    ) -> None:
        self._loop = loop
        self._source = source
        self._job_id = job_id
        self._leave = leave
        self._queue: asyncio.Queue[LogEntry | None] = asyncio.Queue()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> LogEntry:
        entry = await self._queue.get()
        if entry is None:
            raise StopAsyncIteration
        return entry

    def close(self) -> None:
        """Gets no more lines."""
        self._leave(self)

    def offer(self, entries: Sequence[LogEntry]) -> None:
        """Takes those of the lines that it asked for; from any thread."""
        wanted = [
            entry for entry in entries if self._source in ("", entry.source) and self._job_id in ("", entry.job_id)
        ]
        if wanted:
            self._call(wanted)

    def end(self) -> None:
        """Lets the iteration end after what is waiting."""
        self._call([None])

    def _call(self, entries: Sequence[LogEntry | None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and its followers with it
            self._loop.call_soon_threadsafe(self._put, entries)

    def _put(self, entries: Sequence[LogEntry | None]) -> None:
        for entry in entries:
            if self._queue.qsize() >= MAX_WAITING_LINES:
                self._queue.get_nowait()
            self._queue.put_nowait(entry)


def _file(folder: Path, source: str) -> Path:
    return folder / (f"{SERVER}.jsonl" if source == SERVER else f"site-{source}.jsonl")


def _set_aside(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def _read(path: Path) -> Iterator[LogEntry]:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                with contextlib.suppress(ValueError, TypeError):  # a line that a crash cut
                    yield LogEntry(**json.loads(line))
    except FileNotFoundError:
        return


def _clean(entry: LogEntry) -> LogEntry:
    return replace(entry, message=one_line(entry.message), level=entry.level if entry.level in LEVELS else "info")
