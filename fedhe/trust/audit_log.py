"""An append-only log in which each line carries the hash of the one before, so that an altered history shows.

One line is one JSON object with sorted keys: `n` (line number from 0), `time` (seconds since 1970 UTC), `kind`,
`fields`, `prev` (hex SHA-256 of the line before, without its newline; 64 zeros for the first). A line is on the disk
before `append` returns. The chain shows that lines were changed, dropped from the middle or reordered; that lines
were cut off the end shows only against a head that somebody else has noted.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedhe.errors import ResourceError, TrustError

AUDIT_FILE = "audit.log"
"""The log's name, in the server's folder and in each site's."""

GENESIS = "0" * 64
MAX_LINE_BYTES = 64 * 1024
"""Longest line that is written; longer values in `fields` are the caller's to shorten."""


@dataclass(frozen=True)
class AuditHead:
    """Where the log stands.

    Args:
        lines: how many lines it has.
        digest: hex SHA-256 of the last line, `GENESIS` of an empty log.
        last: the last line, parsed; None of an empty log.
        torn_bytes: bytes behind the last complete line: a line whose writing a crash cut, never acknowledged.
    """

    lines: int
    digest: str
    last: Mapping[str, Any] | None
    torn_bytes: int


def append(path: Path, kind: str, fields: Mapping[str, Any], now: float) -> AuditHead:
    """Adds one line and has it on the disk before it returns.

    Several processes may append to one file. A line that a crash cut is removed first; the line that follows says so.

    Args:
        path: the log; made with mode 0600 if it is not there.
        kind: what happened, e.g. "job-submitted".
        fields: who, result, digest...; JSON values.
        now: seconds since 1970 UTC.

    Raises:
        ResourceError: the disk does not take the line; the log is as it was before.
        TrustError: the last line of the log is not a line of this format.
        ValueError: the line would be longer than `MAX_LINE_BYTES`.
    """
    with _locked(path) as descriptor:
        before = _head(descriptor, path)
        end = os.fstat(descriptor).st_size - before.torn_bytes
        record: dict[str, Any] = {
            "n": before.lines,
            "time": now,
            "kind": kind,
            "fields": dict(fields),
            "prev": before.digest,
        }
        if before.torn_bytes:
            record["torn_bytes_removed"] = before.torn_bytes
        line = json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
        if len(line) > MAX_LINE_BYTES:
            raise ValueError(f"audit line of {len(line)} bytes, at most {MAX_LINE_BYTES}")
        try:
            os.ftruncate(descriptor, end)
            _write_all(descriptor, line + b"\n", end)
            os.fsync(descriptor)
        except OSError as error:
            os.ftruncate(descriptor, end)
            raise ResourceError(f"{path}: cannot write the audit log: {error.strerror}", "free disk space") from error
        return AuditHead(before.lines + 1, hashlib.sha256(line).hexdigest(), record, 0)


def head(path: Path) -> AuditHead:
    """Reads where the log stands from its last line; of a missing log, an empty one.

    Raises:
        TrustError: the last line is not a line of this format.
    """
    if not path.exists():
        return AuditHead(0, GENESIS, None, 0)
    with path.open("rb") as file:
        return _head(file.fileno(), path)


def verify(path: Path, heads: Iterable[tuple[int, str]] = ()) -> AuditHead:
    """Reads the whole log and checks the chain, and that it extends heads that were noted before.

    Args:
        path: the log.
        heads: number of lines and hex SHA-256 of the last of them, of each head.

    Returns:
        The head. `torn_bytes` > 0 is no forgery: a crash cut the last line, and nothing was told of it.

    Raises:
        TrustError: a line is no line of this format, or does not carry the hash of the one before; with its number.
            Or the log does not extend a head: what was in it then is not in it now.
    """
    noted: dict[int, set[str]] = {}
    for count, expected in heads:
        noted.setdefault(count, set()).add(expected)
    lines, digest, last, torn = 0, GENESIS, None, 0
    _extends(path, lines, digest, noted)
    if not path.exists():
        _no_more(path, lines, noted)
        return AuditHead(0, GENESIS, None, 0)
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE_BYTES + 2):
            if not line.endswith(b"\n"):
                if len(line) > MAX_LINE_BYTES:
                    raise TrustError(f"{path}:{lines + 1}: longer than {MAX_LINE_BYTES} bytes: not written by fedhe")
                torn = len(line)
                break
            last = _parse(line, path, lines)
            if last["prev"] != digest:
                raise TrustError(
                    f"{path}:{lines + 1}: carries {last['prev'][:16]}... as hash of the line before, "
                    f"which is {digest[:16]}...: the log was altered at or before this line"
                )
            digest = hashlib.sha256(line[:-1]).hexdigest()
            lines += 1
            _extends(path, lines, digest, noted)
    _no_more(path, lines, noted)
    return AuditHead(lines, digest, last, torn)


def _extends(path: Path, lines: int, digest: str, noted: dict[int, set[str]]) -> None:
    for expected in noted.pop(lines, ()):
        if expected != digest:
            raise TrustError(
                f"{path}: expected line {lines} with hash {expected[:16]}..., as was noted, found {digest[:16]}...: "
                "the log was written anew",
                "keep the file, and compare it with a backup from the time of the note",
            )


def _no_more(path: Path, lines: int, noted: dict[int, set[str]]) -> None:
    if noted:
        raise TrustError(
            f"{path}: expected at least {max(noted)} lines, as was noted, found {lines}: lines were cut off",
            "keep the file, and compare it with a backup from the time of the note",
        )


def read(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yields the complete lines, parsed, without checking the chain (see `verify`).

    Raises:
        TrustError: a line is not a line of this format.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        number = 0
        while (line := file.readline(MAX_LINE_BYTES + 2)).endswith(b"\n"):
            yield _parse(line, path, number)
            number += 1


def _parse(line: bytes, path: Path, number: int) -> Mapping[str, Any]:
    try:
        record = json.loads(line)
        fits = (
            type(record["n"]) is int
            and record["n"] == number
            and isinstance(record["kind"], str)
            and isinstance(record["fields"], dict)
        )
        fits = fits and isinstance(record["prev"], str) and isinstance(record["time"], int | float)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TrustError(f"{path}:{number + 1}: expected a line of an audit log, found other text") from error
    if not fits:
        raise TrustError(f"{path}:{number + 1}: expected audit line number {number}, found {record['n']!r}")
    return dict(record)


def _head(descriptor: int, path: Path) -> AuditHead:
    size = os.fstat(descriptor).st_size
    tail = os.pread(descriptor, min(size, MAX_LINE_BYTES * 2 + 2), max(0, size - MAX_LINE_BYTES * 2 - 2))
    complete, newline, torn = tail.rpartition(b"\n")
    if not newline:
        if size > MAX_LINE_BYTES:
            raise TrustError(f"{path}: expected an audit log, found a file without lines")
        return AuditHead(0, GENESIS, None, size)
    line = complete.rpartition(b"\n")[2]
    try:
        number = json.loads(line)["n"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TrustError(
            f"{path}: the last line is no line of an audit log", "keep the file, and look who wrote it"
        ) from error
    record = _parse(line, path, number)
    return AuditHead(number + 1, hashlib.sha256(line).hexdigest(), record, len(torn))


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Opens the log for one writer; its first making is on the disk too."""
    try:
        new = not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if new:
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        raise ResourceError(f"{path}: cannot open the audit log: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)
