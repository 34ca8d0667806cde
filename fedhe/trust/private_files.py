"""Files that only their owner may read: written in one step that no crash can tear, refused where others can read."""

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path

from fedhe.errors import FedheError, NotFoundError, ResourceError, TrustError

FILE_MODE = 0o600
FOLDER_MODE = 0o700

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def make_private_folder(folder: Path) -> None:
    """Makes a folder of mode 0700, and those above it alike; one that exists keeps its mode.

    Raises:
        FedheError: the system refuses.
    """
    try:
        for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
            missing.mkdir(mode=FOLDER_MODE, exist_ok=True)
            fsync_folder(missing.parent)
        if not folder.is_dir():
            raise ResourceError(f"{folder}: expected a folder, got a file", "choose another place")
    except OSError as error:
        raise file_error(error, folder) from error


def write_private(path: Path, data: bytes) -> None:
    """Writes or replaces a file of mode 0600; after a crash there is the old content or the new, never a mixture.

    Raises:
        ResourceError: the disk does not take it; the old content is untouched.
        FedheError: the system refuses otherwise.
    """
    try:
        replace_file(path, data)
    except OSError as error:
        raise file_error(error, path) from error


def replace_file(path: Path, *parts: bytes | memoryview, sync: bool = True) -> None:
    """`write_private` with the system's own errors; without `sync`, a file that may be lost in a power cut.

    Raises:
        OSError: as the system gives it; the old content is untouched.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        write_new(temporary, *parts, sync=sync)
        temporary.replace(path)
        if sync:
            fsync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_new(path: Path, *parts: bytes | memoryview, sync: bool = True) -> None:
    """Writes a file of mode 0600 that must not exist yet; with `sync`, its content is on the disk afterwards.

    Raises:
        OSError: as the system gives it; a part may have been written.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    try:
        for part in parts:
            rest = memoryview(part).cast("B")
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_file(path: Path) -> None:
    """Has a file's content on the disk.

    Raises:
        OSError: as the system gives it.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_folder(folder: Path) -> None:
    """Has a folder's entries on the disk.

    Raises:
        OSError: as the system gives it.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_private(path: Path, limit: int) -> bytes:
    """Reads a file of at most `limit` bytes after `check_private`.

    Raises:
        NotFoundError: there is no such file.
        TrustError: others could read or write it, or it is too large.
        FedheError: the system refuses otherwise.
    """
    check_private(path)
    return read_limited(path, limit)


def read_limited(path: Path, limit: int) -> bytes:
    """Reads a file of at most `limit` bytes.

    Raises:
        NotFoundError: there is no such file.
        TrustError: it is larger.
        FedheError: the system refuses otherwise.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise file_error(error, path) from error
    if len(data) > limit:
        raise TrustError(f"{path}: expected at most {limit} bytes, got more")
    return data


def check_private(path: Path) -> None:
    """Refuses a file or folder that is not this user's alone.

    Raises:
        NotFoundError: it does not exist.
        TrustError: another user owns it, or its mode is looser than 0600 (a folder's: 0700).
        FedheError: the system refuses.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise file_error(error, path) from error
    if status.st_uid != os.geteuid():
        raise TrustError(
            f"{path}: expected to be owned by user id {os.geteuid()}, got {status.st_uid}",
            f"run as its owner, or: chown {os.geteuid()} '{path}'",
        )
    allowed = FOLDER_MODE if stat.S_ISDIR(status.st_mode) else FILE_MODE
    mode = stat.S_IMODE(status.st_mode)
    if mode & ~allowed:
        raise TrustError(
            f"{path}: expected mode {allowed:04o} or stricter, got {mode:04o}: others could read it",
            f"chmod {allowed:o} '{path}', and think about who may have read it",
        )


def file_error(error: OSError, path: Path) -> FedheError:
    """What a failing file operation means to the one who asked for it."""
    if isinstance(error, FileNotFoundError):
        return NotFoundError(f"{path}: no such file or folder", "check the path")
    if error.errno in _FULL:
        return ResourceError(f"{path}: {error.strerror}", "free some space and run the command again")
    return ResourceError(f"{path}: {error.strerror or error}", "check the path and who may write there")
