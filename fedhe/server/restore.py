"""Reading a backup: all of it checked, and put where a server goes on from it; and checking a server's own folder.

A restored server knows less than its sites may. So every job that ran is paused, and what the backup knew of the sites'
models is forgotten: an admin sees what each site holds (`fedhe-admin jobs show`) and has the job go on, which the round
machine refuses while a site is further than the server.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Final

from fedhe import __version__
from fedhe.errors import (
    ConfigError,
    FedheError,
    NotFoundError,
    RemoteProtocolError,
    ResourceError,
    StateError,
    TrustError,
)
from fedhe.rounds.events import Pause
from fedhe.rounds.machine import step
from fedhe.server import records
from fedhe.server.backup import FORMAT, MANIFEST, Manifest, opened_copy, place_of, require_sqlite
from fedhe.server.database import DATABASE_FILE, sqlite_url
from fedhe.server.jobs import read_state, write_state
from fedhe.server.lock_file import Holder, LockFile
from fedhe.server.project_sites import read_followed
from fedhe.server.records import ObjectRow
from fedhe.server.start import BLOBS_FOLDER, LOCK_FILE
from fedhe.server.store import open_store
from fedhe.trust import audit_log
from fedhe.trust.audit_log import AUDIT_FILE
from fedhe.trust.installation import ROSTER_FILE, load_installation, store_roster
from fedhe.trust.private_files import file_error, fsync_file, fsync_folder, make_private_folder, write_new
from fedhe.trust.roster import MAX_ROSTER_BYTES
from fedhe.wire.limits import MAX_CHUNK_BYTES

MAX_MANIFEST_BYTES: Final = 64 * 1024
MAX_DATABASE_BYTES: Final = 64 * 1024**3
MAX_AUDIT_BYTES: Final = 64 * 1024**3
_PIECE_BYTES: Final = 1024 * 1024
_RESTORING: Final = ".restore-"
_CHUNK: Final = re.compile(r"^blobs/(?P<place>.+)/(?P<index>\d{8})-(?P<digest>[0-9a-f]{64})$")


@dataclass(frozen=True)
class Checked:
    """What a check has read: objects, their bytes, lines of the audit log; None for what there is none of."""

    objects: int
    bytes: int
    audit_lines: int
    created_at: float | None = None


def check_backup(source: Path) -> Checked:
    """Reads a backup to its end and checks every digest in it.

    Raises:
        RemoteProtocolError: it is not a whole backup as fedhe makes it.
        TrustError: its audit log was altered.
        ConfigError: there is no such file.
        ResourceError: no space for its database in the folder for temporary files.
    """
    with tempfile.TemporaryDirectory(prefix="fedhe-verify-") as folder:
        return _read(source, Path(folder), keep=False)[1]


def restore(folder: Path, source: Path, now: float) -> Checked:
    """Puts a backup into a server's folder in which only the kit is installed; all of it is checked before.

    Args:
        folder: HOME/server.
        source: the backup.
        now: seconds since 1970 UTC.

    Raises:
        StateError: the folder is not empty, its server uses PostgreSQL, or the backup is of another project.
        NotFoundError: no kit is installed.
        RemoteProtocolError: it is not a whole backup as fedhe makes it.
        ResourceError: the disk is full or fails; nothing was restored.
    """
    installation = load_installation(folder, role_prefix="server", now=now)
    lock = LockFile.acquire(folder / LOCK_FILE, Holder(os.getpid(), "", now, __version__))
    try:
        require_sqlite(folder)
        _refuse_unless_empty(folder)
        with _restoring(folder) as work:
            manifest, checked = _read(source, work, keep=True)
            if manifest.key_id not in {"", installation.roster.key_id.hex()}:
                raise StateError(
                    f"{source}: expected a backup of the project with key {installation.roster.key_id.hex()}, "
                    f"got one with key {manifest.key_id}",
                    "install the kit that this backup's server had, or choose another backup",
                )
            _set_jobs_waiting(work, manifest, now)
            roster = (work / ROSTER_FILE).read_bytes()
            if roster and _followed_version(work) > installation.roster.version:
                store_roster(installation, roster)
            # The database last: without it, there is nothing that a server would take for its past.
            for name in (BLOBS_FOLDER, AUDIT_FILE, DATABASE_FILE):
                if (work / name).exists():
                    (work / name).rename(folder / name)
                fsync_folder(folder)
    except OSError as error:
        raise file_error(error, folder) from error
    finally:
        lock.release()
    return checked


def check_folder(folder: Path) -> Checked:
    """Checks every object that a server's database knows, and its audit log; the server may run.

    Raises:
        ResourceError: an object's chunks are missing or damaged; names the first.
        TrustError: the audit log was altered, or is gone.
        NotFoundError: the folder has no database.
        StateError: its server uses PostgreSQL.
    """
    require_sqlite(folder)
    database = folder / DATABASE_FILE
    if not database.exists():
        raise NotFoundError(f"{folder} has no database to check", "the server makes one when it starts first")
    rows = _known(database)
    read = [row for row in rows if _check_stored(folder, database, row)]
    if not (folder / AUDIT_FILE).exists():
        raise TrustError(f"{folder / AUDIT_FILE}: expected the audit log beside the database, found none")
    lines = audit_log.verify(folder / AUDIT_FILE).lines
    return Checked(len(read), sum(row.size for row in read), lines)


def _known(database: Path) -> list[ObjectRow]:
    with opened_copy(database) as store, store.read() as connection:
        return records.objects(connection)


def _check_stored(folder: Path, database: Path, row: ObjectRow) -> bool:
    """False if the server has dropped the object meanwhile."""
    try:
        _check_object(row, list(_stored_chunks(folder / BLOBS_FOLDER / place_of(row))))
    except (FedheError, OSError) as error:
        if row not in _known(database):
            return False
        reason = error.message if isinstance(error, FedheError) else error.strerror
        raise ResourceError(f"{place_of(row)}: {reason}", "the disk has lost data: restore a backup") from error
    return True


def _stored_chunks(folder: Path) -> Iterator[tuple[int, bytes, int]]:
    for path in sorted(folder.iterdir()):
        if not path.name.startswith("."):
            data = path.read_bytes()
            index, _, digest = path.name.partition("-")
            yield _checked_chunk(path.name, int(index), bytes.fromhex(digest), data)


def _checked_chunk(name: str, index: int, digest: bytes, data: bytes) -> tuple[int, bytes, int]:
    if (actual := hashlib.sha256(data).digest()) != digest:
        raise RemoteProtocolError(f"chunk {name[:80]}: its content has SHA-256 {actual.hex()[:16]}...")
    return index, digest, len(data)


def _check_object(row: ObjectRow, chunks: list[tuple[int, bytes, int]]) -> None:
    if [index for index, _, _ in chunks] != list(range(row.chunks)):
        raise RemoteProtocolError(f"expected chunks 0 to {row.chunks - 1}, got {len(chunks)} of them")
    digest = hashlib.sha256(b"".join(one for _, one, _ in chunks)).digest()
    if digest != row.digest or sum(size for _, _, size in chunks) != row.size:
        raise RemoteProtocolError(f"expected digest {row.digest.hex()[:16]}..., got {digest.hex()[:16]}...")


# ---- the archive ----


def _read(source: Path, work: Path, *, keep: bool) -> tuple[Manifest, Checked]:
    """Reads all of a backup into `work`, its chunks only if they are to be kept."""
    try:
        with source.open("rb") as file, tarfile.open(fileobj=file, mode="r|") as archive:
            return _read_members(source, archive, work, keep=keep)
    except FileNotFoundError as error:
        raise ConfigError(f"{source}: no such file", "name a file that fedhe-server backup made") from error
    except (tarfile.TarError, EOFError, ValueError, KeyError, TypeError) as error:
        raise RemoteProtocolError(f"{source}: not a whole backup: {error}", "choose another one") from error
    except OSError as error:
        raise file_error(error, source) from error


def _read_members(source: Path, archive: tarfile.TarFile, work: Path, *, keep: bool) -> tuple[Manifest, Checked]:
    manifest = Manifest(**json.loads(_next(archive, MANIFEST, MAX_MANIFEST_BYTES).read()))
    if manifest.format != FORMAT:
        raise RemoteProtocolError(f"{source}: expected a backup of format {FORMAT}, got {manifest.format}")
    digest = _copy(_next(archive, DATABASE_FILE, MAX_DATABASE_BYTES), work / DATABASE_FILE)
    if digest != manifest.database_digest:
        raise RemoteProtocolError(f"{source}: the database has digest {digest[:16]}..., not the one in {MANIFEST}")
    _copy(_next(archive, AUDIT_FILE, MAX_AUDIT_BYTES), work / AUDIT_FILE)
    _copy(_next(archive, ROSTER_FILE, MAX_ROSTER_BYTES), work / ROSTER_FILE)
    lines = audit_log.verify(work / AUDIT_FILE).lines
    store = open_store(sqlite_url(work / DATABASE_FILE))  # an earlier schema becomes the present one
    try:
        with store.read() as connection:
            rows = {place_of(row): row for row in records.objects(connection)}
    finally:
        store.close()
    found: dict[str, list[tuple[int, bytes, int]]] = {place: [] for place in rows}
    while (entry := archive.next()) is not None:
        match = _CHUNK.match(entry.name)
        if match is None or match["place"] not in found or not entry.isfile() or entry.size > MAX_CHUNK_BYTES:
            raise RemoteProtocolError(f"{source}: {entry.name[:120]!r} has no place in a backup")
        data = _content(archive, entry).read()
        name = f"{match['index']}-{match['digest']}"
        found[match["place"]].append(_checked_chunk(name, int(match["index"]), bytes.fromhex(match["digest"]), data))
        if keep:
            make_private_folder(work / BLOBS_FOLDER / match["place"])
            write_new(work / entry.name, data)
    for place, row in rows.items():
        try:
            _check_object(row, found[place])
        except RemoteProtocolError as error:
            raise RemoteProtocolError(f"{source}: {place}: {error.message}", "choose another backup") from error
        if keep:
            fsync_folder(work / BLOBS_FOLDER / place)
    return manifest, Checked(len(rows), sum(row.size for row in rows.values()), lines, manifest.created_at)


def _next(archive: tarfile.TarFile, name: str, limit: int) -> IO[bytes]:
    entry = archive.next()
    if entry is None or entry.name != name or not entry.isfile() or entry.size > limit:
        raise RemoteProtocolError(
            f"expected {name} of at most {limit} bytes, got {entry.name[:80] if entry else None!r}"
        )
    return _content(archive, entry)


def _content(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> IO[bytes]:
    content = archive.extractfile(entry)
    if content is None:
        raise RemoteProtocolError(f"expected a file, got {entry.name[:80]!r}")
    return content


def _copy(source: IO[bytes], target: Path) -> str:
    """Writes a member to a private file; returns its hex SHA-256."""
    digest = hashlib.sha256()
    write_new(target, b"")
    with target.open("r+b") as file:
        while piece := source.read(_PIECE_BYTES):
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()


# ---- putting it in place ----


def _refuse_unless_empty(folder: Path) -> None:
    blobs = folder / BLOBS_FOLDER
    if blobs.is_dir() and not any(blobs.iterdir()):
        blobs.rmdir()
    there = [name for name in (DATABASE_FILE, BLOBS_FOLDER, AUDIT_FILE) if (folder / name).exists()]
    if there:
        raise StateError(
            f"{folder} already has {', '.join(there)}; a backup is restored into a folder with nothing but the kit",
            "move them away, or restore with another --home after: fedhe-server install server.kit",
        )


@contextmanager
def _restoring(folder: Path) -> Iterator[Path]:
    for left in folder.glob(f"{_RESTORING}*"):
        shutil.rmtree(left, ignore_errors=True)  # of a restore that was killed; we hold the server's lock
    work = folder / f"{_RESTORING}{secrets.token_hex(4)}"
    make_private_folder(work)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _followed_version(work: Path) -> int:
    with opened_copy(work / DATABASE_FILE) as store:
        return read_followed(store).version


def _set_jobs_waiting(work: Path, manifest: Manifest, now: float) -> None:
    """Pauses the jobs that ran, and takes out of the outbox what the log already has."""
    made = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(manifest.created_at))
    reason = f"the server was restored from a backup of {made}; see what each site holds, then resume"
    log = work / AUDIT_FILE
    written = max((int(line["fields"].get("sequence", 0)) for line in audit_log.read(log)), default=0)
    store = open_store(sqlite_url(work / DATABASE_FILE))
    try:
        with store.write() as connection:
            records.delivered(connection, written)
            for row in records.jobs(connection):
                state = read_state(row.job_id, row.state)
                if state.phase.running:
                    paused, _ = step(state, Pause(reason, after_round=False, now=now))
                    waiting = replace(paused, pause_reason=reason, versions={})
                    records.update_job(connection, row.job_id, write_state(waiting), row.ended_at)
    finally:
        store.close()
    # No sequence number: the lines that follow count on from the restored database's.
    audit_log.append(log, "restored-from-backup", {"created_at": manifest.created_at, "made_by": __version__}, now)
    fsync_file(work / DATABASE_FILE)
