"""The agent's log: one line on the terminal, one JSON line in a file, and a queue of what admins may read."""

import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TextIO

from fedhe.client.approvals import printable
from fedhe.client.durable import make_folder

Level = Literal["debug", "info", "warning", "error"]

MAX_LOG_FILE_BYTES = 16 * 1024 * 1024  # the file before is kept as agent.log.1
MAX_QUEUED_LINES = 2000  # older ones are dropped while the server is away
MAX_LINE_CHARACTERS = 2000


@dataclass(frozen=True)
class Line:
    """One log line.

    Attributes:
        time: seconds since 1970 UTC.
        job_id: the job it is about; empty if about none.
    """

    time: float
    level: Level
    job_id: str
    message: str


@dataclass
class LogBook:
    """Writes lines; a disk that is full costs lines in the file, never the agent.

    Attributes:
        folder: of `agent.log`.
        as_json: whether the terminal gets JSON too.
    """

    folder: Path
    as_json: bool = False
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    clock: Callable[[], float] = time.time
    _queue: deque[Line] = field(default_factory=lambda: deque(maxlen=MAX_QUEUED_LINES))
    _file_failed: bool = False

    def write(self, level: Level, message: str, job_id: str = "") -> None:
        """Logs one line."""
        message = printable(" ".join(message.split()))[:MAX_LINE_CHARACTERS]
        line = Line(self.clock(), level, job_id, message)
        record = json.dumps({"time": line.time, "level": level, "job": job_id, "message": message})
        self._to_file(record)
        if self.as_json:
            self.stream.write(record + "\n")
        else:
            when = datetime.fromtimestamp(line.time, UTC).astimezone().strftime("%H:%M:%S")
            about = f"[{job_id}] " if job_id else ""
            self.stream.write(f"{when} {level:<7} {about}{message}\n")
        self.stream.flush()
        if job_id and level != "debug":
            self._queue.append(line)

    def _to_file(self, record: str) -> None:
        path = self.folder / "agent.log"
        try:
            if path.exists() and path.stat().st_size > MAX_LOG_FILE_BYTES:
                path.replace(path.with_name("agent.log.1"))
            make_folder(self.folder)
            with path.open("a", encoding="utf-8") as file:
                file.write(record + "\n")
            self._file_failed = False
        except Exception as error:  # noqa: BLE001 - whatever the disk does, training goes on; said once on the terminal
            if not self._file_failed:
                self.stream.write(f"error: {path}: {error}; lines are missing from this file\n")
            self._file_failed = True

    @contextmanager
    def pending(self, job_id: str, limit: int) -> Iterator[list[Line]]:
        """Up to `limit` lines about a job that were not sent yet; they count as sent when the block ends well."""
        lines = [line for line in self._queue if line.job_id == job_id][:limit]
        yield lines
        for line in lines:
            if line in self._queue:
                self._queue.remove(line)

    def jobs_with_lines(self) -> set[str]:
        """Jobs that have lines to send."""
        return {line.job_id for line in self._queue}

    def forget(self, job_id: str) -> None:
        """Drops a job's lines that were not sent."""
        for line in [line for line in self._queue if line.job_id == job_id]:
            self._queue.remove(line)
