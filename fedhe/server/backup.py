"""A backup of the server in one file, made while it runs: its database as of one moment, and what this speaks of.

The file is a tar archive: `manifest.json`, `server.db`, `audit.log`, `roster.signed`, then `blobs/`: the chunks of each
object that the database knows. No key is in it, neither one that decrypts (the server has none) nor the one of its
certificate: a restored server gets its kit from the coordinator's file, as a new one does.

Chunks never change, so the moment is that of the database's copy: right after it, each chunk gets a second name (a hard
link) that the running server does not drop. Where an object was dropped in between, the database is copied again.
"""

import contextlib
import hashlib
import io
import json
import os
import secrets
import shutil
import sqlite3
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from fedhe import __version__
from fedhe.errors import ConfigError, NotFoundError, ResourceError, StateError
from fedhe.server import places, records
from fedhe.server.blobs import check_chunk
from fedhe.server.database import DATABASE_FILE, database_url, sqlite_url
from fedhe.server.project_sites import read_followed
from fedhe.server.records import ObjectRow
from fedhe.server.start import BLOBS_FOLDER
from fedhe.server.store import Store, look_into
from fedhe.trust.audit_log import AUDIT_FILE
from fedhe.trust.installation import KIT_FOLDER, ROSTER_FILE
from fedhe.trust.private_files import file_error, fsync_folder, make_private_folder

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
STAGING: Final = ".backup-"
"""How folders begin in which a backup is prepared; the number of its process follows."""
MAX_TRIES: Final = 5


@dataclass(frozen=True)
class Manifest:
    """What the archive is.

    Args:
        format: of the archive.
        software_version: of the fedhe that made it.
        created_at: moment of the database's copy, seconds since 1970.
        key_id: hex id of the project's CKKS key; empty if the server never ran.
        database_digest: hex SHA-256 of `server.db`.
        objects: how many objects it has.
        bytes: of all their chunks.
    """

    format: int
    software_version: str
    created_at: float
    key_id: str
    database_digest: str
    objects: int
    bytes: int


def make_backup(folder: Path, target: Path, clock: Callable[[], float]) -> Manifest:
    """Writes a backup of the server's folder; the server may run. After a crash there is no file of that name.

    Args:
        folder: HOME/server.
        target: the file to make.
        clock: seconds since 1970 UTC.

    Raises:
        StateError: the file exists, another fedhe wrote the database, or it is PostgreSQL's.
        NotFoundError: the folder has no database.
        ResourceError: a disk fails or is full, or stored chunks are damaged.
    """
    if target.exists():
        raise StateError(f"{target} exists already; a backup is never overwritten", "choose another name")
    if not target.parent.is_dir():
        raise ConfigError(f"{target.parent}: expected a folder to write the backup into, found none")
    require_sqlite(folder)
    if not (folder / DATABASE_FILE).exists():
        raise NotFoundError(f"{folder} has no database to back up", "the server makes one when it starts first")
    with _staging(folder) as staging:
        for _ in range(MAX_TRIES):
            moment = clock()
            rows = _copy_database(folder, staging)
            if all(_link(folder / BLOBS_FOLDER, staging / BLOBS_FOLDER, row) for row in rows):
                break
            shutil.rmtree(staging / BLOBS_FOLDER, ignore_errors=True)
        else:
            raise ResourceError(
                f"{MAX_TRIES} times chunks were missing that the database knows", "fedhe-server verify names them"
            )
        _copy_small(folder, staging)
        manifest = Manifest(
            format=FORMAT,
            software_version=__version__,
            created_at=moment,
            key_id=_key_id(staging),
            database_digest=_digest_of(staging / DATABASE_FILE),
            objects=len(rows),
            bytes=sum(row.size for row in rows),
        )
        _write_archive(staging, target, manifest, rows)
    return manifest


def require_sqlite(folder: Path) -> None:
    """Refuses a server whose jobs are in PostgreSQL: backup, restore and verify know nothing of those.

    Raises:
        StateError: they are.
    """
    if database_url(folder).get_backend_name() != "sqlite":
        raise StateError(
            f"{folder}: this server keeps its jobs in PostgreSQL, of which backup, restore and verify know nothing",
            "stop the server, then pg_dump the database and copy the folder; put both back together",
        )


@contextmanager
def opened_copy(database: Path) -> Iterator[Store]:
    """Opens a copy of a database for reading; it is one file again afterwards."""
    store = look_into(sqlite_url(database))
    try:
        yield store
    finally:
        store.close()


def place_of(row: ObjectRow) -> str:
    """Where an object's chunks are below `blobs/`."""
    return places.place(row.job_id, row.kind, row.number, row.attempt, row.owner)


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    for left in folder.glob(f"{STAGING}*"):
        if not _runs(left.name.removeprefix(STAGING).partition("-")[0]):
            shutil.rmtree(left, ignore_errors=True)  # of a backup that was killed
    staging = folder / f"{STAGING}{os.getpid()}-{secrets.token_hex(4)}"
    make_private_folder(staging)
    try:
        yield staging
    except OSError as error:
        raise file_error(error, staging) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _runs(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True


def _copy_database(folder: Path, staging: Path) -> list[ObjectRow]:
    """Copies the database as of now; returns the objects that it knows."""
    copy = staging / DATABASE_FILE
    copy.unlink(missing_ok=True)
    try:
        with (
            contextlib.closing(
                sqlite3.connect(f"file:{folder / DATABASE_FILE}?mode=ro", uri=True, timeout=60)
            ) as source,
            contextlib.closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
    except sqlite3.Error as error:
        raise ResourceError(f"cannot copy {folder / DATABASE_FILE}: {error}", "check its disk") from error
    copy.chmod(0o600)
    with opened_copy(copy) as store, store.read() as connection:
        return records.objects(connection)


def _link(blobs: Path, staging: Path, row: ObjectRow) -> bool:
    """Gives an object's chunks a second name; False if some were dropped since the database was copied."""
    source, target = blobs / place_of(row), staging / place_of(row)
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        names = [entry.name for entry in source.iterdir() if not entry.name.startswith(".")]
        for name in names:
            try:
                os.link(source / name, target / name)
            except FileNotFoundError:
                raise
            except OSError:  # a file system without hard links
                shutil.copyfile(source / name, target / name)
    except FileNotFoundError:
        return False
    return len(names) == row.chunks


def _copy_small(folder: Path, staging: Path) -> None:
    """Log and roster; what the log tells beyond the moment of the database is no less true."""
    log, roster = folder / AUDIT_FILE, folder / KIT_FOLDER / ROSTER_FILE
    complete = log.read_bytes().rpartition(b"\n") if log.exists() else (b"", b"", b"")
    (staging / AUDIT_FILE).write_bytes(complete[0] + complete[1])
    (staging / ROSTER_FILE).write_bytes(roster.read_bytes() if roster.exists() else b"")


def _key_id(staging: Path) -> str:
    with opened_copy(staging / DATABASE_FILE) as store:
        return read_followed(store).key_id


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_archive(staging: Path, target: Path, manifest: Manifest, rows: list[ObjectRow]) -> None:
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            with tarfile.open(fileobj=file, mode="w|", format=tarfile.GNU_FORMAT) as archive:
                _add(archive, MANIFEST, json.dumps(asdict(manifest), indent=1).encode())
                for name in (DATABASE_FILE, AUDIT_FILE, ROSTER_FILE):
                    with (staging / name).open("rb") as member:
                        archive.addfile(_entry(name, (staging / name).stat().st_size), member)
                for row in rows:
                    for path in sorted((staging / BLOBS_FOLDER / place_of(row)).iterdir()):
                        data = path.read_bytes()
                        check_chunk(path, data, bytes.fromhex(path.name.rpartition("-")[2]))
                        _add(archive, str(path.relative_to(staging)), data)
            file.flush()
            os.fsync(file.fileno())
        # A link, because a rename would overwrite what somebody else has made of that name meanwhile.
        os.link(temporary, target)
        fsync_folder(target.parent)
    except FileExistsError as error:
        raise StateError(f"{target} exists already; a backup is never overwritten", "choose another name") from error
    except OSError as error:
        raise file_error(error, target) from error
    finally:
        temporary.unlink(missing_ok=True)


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    archive.addfile(_entry(name, len(data)), io.BytesIO(data))


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o600
    return entry
