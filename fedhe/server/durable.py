"""Chunk files that survive a power cut, and what a failing disk means to the one who sent a chunk."""

import errno
from pathlib import Path

from fedhe.errors import FedheError, NotFoundError, ResourceError
from fedhe.trust.private_files import fsync_folder

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What the system says when a disk, a quota or a limit on file size is full."""

TEMPORARY = ".writing-"
"""How names begin of what is being written or removed; found after a crash, it may go."""


def make_durable_folder(folder: Path) -> None:
    """Makes a folder and those above it, each entry durable, mode 0700.

    Raises:
        OSError: as the system gives it.
    """
    if folder.is_dir():
        return
    make_durable_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    fsync_folder(folder.parent)


def disk_error(error: OSError, what: str) -> FedheError:
    """What a failing file operation means to the one who asked for it."""
    if isinstance(error, FileNotFoundError):
        return NotFoundError(f"{what} was dropped meanwhile")
    if error.errno in NO_SPACE:
        return ResourceError(f"{what}: the server's disk is full", "free space on it; the sender tries again by itself")
    return ResourceError(f"{what}: the server's disk fails: {error.strerror or error}")
