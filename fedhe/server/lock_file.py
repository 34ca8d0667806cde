"""One server for one folder: a lock that the system gives back when its holder dies, with a note of who holds it."""

import fcntl
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Self

from fedhe.errors import ResourceError, StateError

_MAX_NOTE_BYTES = 4096
_ATTEMPTS = 5
_PAUSE_SECONDS = 0.1


@dataclass(frozen=True)
class Holder:
    """The server that runs in a folder.

    Args:
        pid: its process id.
        address: where it listens, "host:port"; empty while it starts.
        started_at: seconds since 1970 UTC.
        software_version: version of fedhe.
    """

    pid: int
    address: str
    started_at: float
    software_version: str


class LockFile:
    """Holds the lock until `release` or the end of the process."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    @classmethod
    def acquire(cls, path: Path, holder: Holder) -> Self:
        """Takes the lock.

        Raises:
            StateError: another server holds it; names its process.
            ResourceError: the file cannot be written.
        """
        try:
            file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b", buffering=0)
        except OSError as error:
            raise ResourceError(f"{path}: {error.strerror}", "check the folder and who may write there") from error
        for _ in range(_ATTEMPTS):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # Somebody who only asks whether a server runs holds the lock for a moment.
                time.sleep(_PAUSE_SECONDS)
            else:
                break
        else:
            other = _read(file)
            file.close()
            who = f"process {other.pid}, listening on {other.address or 'no port yet'}" if other else "another process"
            raise StateError(f"a server runs already in {path.parent} ({who})", "stop it first: fedhe-server stop")
        lock = cls(file)
        lock.describe(holder)
        return lock

    def describe(self, holder: Holder) -> None:
        """Notes who holds the lock, for `fedhe-server status`.

        Raises:
            ResourceError: the disk does not take it.
        """
        try:
            os.pwrite(self._file.fileno(), json.dumps(asdict(holder)).ljust(256).encode(), 0)
        except OSError as error:
            raise ResourceError(f"cannot write the server's lock file: {error.strerror}") from error

    def release(self) -> None:
        """Gives the lock back."""
        self._file.close()


def running(path: Path) -> Holder | None:
    """Who holds the lock, or None if nobody does."""
    try:
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return _read(file)
    except OSError:
        return None
    return None


def _read(file: IO[bytes]) -> Holder | None:
    try:
        return Holder(**json.loads(os.pread(file.fileno(), _MAX_NOTE_BYTES, 0)))
    except (ValueError, TypeError):
        return None
