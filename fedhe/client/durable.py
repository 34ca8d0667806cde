"""Files that survive a power cut: a file is either the old one or the new one, never half of one."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedhe.errors import ResourceError
from fedhe.trust.private_files import FOLDER_MODE, fsync_folder, replace_file


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns an error of the operating system about `path` into one line.

    Raises:
        ResourceError: the disk is full, read-only or failing.
    """
    try:
        yield
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        hint = "free some space; the work goes on by itself" if full else "check the disk and the folder's owner"
        raise ResourceError(f"{path}: {error.strerror or error}", hint) from error


def make_folder(folder: Path) -> Path:
    """Makes a folder (and those above it) that only its owner can read, each on the disk; returns it.

    Raises:
        ResourceError: the folder cannot be made.
    """
    with disk_errors(folder):
        if not folder.is_dir():
            make_folder(folder.parent)
            folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
            fsync_folder(folder.parent)
    return folder


def write_durably(path: Path, *parts: bytes | memoryview, sync: bool = True) -> None:
    """Writes `parts`, one after the other, to `path` by way of a temporary file beside it.

    Args:
        path: the file; its folder must exist.
        parts: together the whole content.
        sync: whether to return only once the bytes are on the disk; False for files that merely inform.

    Raises:
        ResourceError: disk full, read-only or failing; the old file is untouched.
    """
    with disk_errors(path):
        replace_file(path, *parts, sync=sync)


def remove_leftovers(folder: Path) -> None:
    """Removes temporary files and folders that a killed process left in `folder`.

    Raises:
        ResourceError: the folder cannot be written.
    """
    with disk_errors(folder):
        for path in folder.glob(".*.tmp"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
