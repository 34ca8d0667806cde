"""The agent's state as one file, for `fedhe-client status` and `jobs list`; and the lock against a second agent."""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fedhe.client.durable import disk_errors, write_durably
from fedhe.errors import ResourceError, StateError
from fedhe.trust.private_files import FILE_MODE

STATUS_FILE = "status.json"
LOCK_FILE = "agent.lock"
LOCK_TRIES = 4
LOCK_PAUSE_SECONDS = 0.05
MIN_INTERVAL_SECONDS = 0.5  # between two writes of the file that only tell progress


@dataclass
class JobStatus:
    """What people see of one job.

    Attributes:
        activity: what is going on, e.g. training, waiting for approval, uploading.
        fraction: done of the activity, 0 to 1.
        model_version: rounds applied to the model that this site holds, -1 before it has one.
        message: why it waits or failed; empty if all is well.
    """

    job_id: str
    name: str = ""
    digest: str = ""
    instruction: str = ""
    activity: str = "idle"
    fraction: float = 0.0
    detail: str = ""
    round: int = 0
    rounds: int = 0
    model_version: int = -1
    message: str = ""
    ended: str | None = None


@dataclass
class Status:
    """What people see of the agent; `publish` writes it for the commands.

    Attributes:
        connection: connecting, connected, waiting (for the server to come back) or stopped.
        next_try_at: when the next attempt to connect is made; seconds since 1970, 0 if none is due.
    """

    path: Path
    site: str
    project: str
    server: str
    clock: Callable[[], float] = time.time
    connection: str = "connecting"
    message: str = ""
    next_try_at: float = 0.0
    since: float = 0.0
    roster_version: int = 0
    jobs: dict[str, JobStatus] = field(default_factory=dict)
    _written_at: float = 0.0

    def connection_is(self, connection: str, message: str = "", next_try_at: float = 0.0) -> bool:
        """Notes a state of the connection; True if it is another one than before."""
        changed = connection != self.connection
        told = changed or message != self.message
        if changed:
            self.since = self.clock()
        self.connection, self.message, self.next_try_at = connection, message, next_try_at
        self.publish(force=told)
        return changed

    def publish(self, *, force: bool = True) -> None:
        """Writes the file, unless it was written a moment ago and `force` is off; a full disk is passed over."""
        now = self.clock()
        if not force and 0 <= now - self._written_at < MIN_INTERVAL_SECONDS:
            return
        self._written_at = now
        value = {
            "site": self.site,
            "project": self.project,
            "server": self.server,
            "pid": os.getpid(),
            "connection": self.connection,
            "message": self.message,
            "since": self.since,
            "next_try_at": self.next_try_at,
            "roster_version": self.roster_version,
            "updated_at": now,
            "jobs": [asdict(job) for job in self.jobs.values()],
        }
        try:
            write_durably(self.path, json.dumps(value, indent=1).encode(), sync=False)
        except ResourceError:
            self._written_at = 0.0  # tells people only; the next change tries again


def read_status(site_folder: Path) -> dict[str, Any] | None:
    """The agent's last status with `running` added, or None if no agent ever ran here.

    Raises:
        StateError: the file is damaged.
    """
    path = site_folder / STATUS_FILE
    if not path.exists():
        return None
    try:
        with disk_errors(path):
            value = json.loads(path.read_bytes())
    except ValueError as error:
        raise StateError(f"{path}: not a status file ({error})", "it is written anew when the agent runs") from error
    running = is_locked(site_folder)
    return {**value, "running": running, "connection": value["connection"] if running else "stopped"}


@contextmanager
def only_agent(site_folder: Path) -> Iterator[None]:
    """Holds the lock of this site's agent.

    Raises:
        StateError: another agent of this site runs on this machine.
    """
    path = site_folder / LOCK_FILE
    with disk_errors(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        try:
            _lock(handle)
        except BlockingIOError as error:
            pid = os.pread(handle, 20, 0).decode(errors="replace").strip()
            raise StateError(
                f"an agent of this site runs already (process {pid or 'unknown'})",
                f"see `fedhe-client status`; end it with `kill {pid}` first" if pid else None,
            ) from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(handle)


def _lock(handle: int) -> None:
    """Takes the lock; `is_locked` of another command may hold it for an instant, so once is not enough."""
    for _ in range(LOCK_TRIES - 1):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(LOCK_PAUSE_SECONDS)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_locked(site_folder: Path) -> bool:
    """Whether an agent of this site runs."""
    try:
        handle = os.open(site_folder / LOCK_FILE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(handle)
