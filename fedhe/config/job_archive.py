"""A job folder as one deterministic archive, and back; what comes from the network is hostile until read here.

The archive is a zip file whose entries are not compressed: the same files give the same bytes, and so the same digest,
whatever compression library a machine has, and nothing grows when it is read.
"""

import hashlib
import io
import os
import secrets
import shutil
import stat
import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Final

import yaml

from fedhe.config.document import parse_document
from fedhe.config.federation import FederationConfig, federation_config
from fedhe.errors import ConfigError, RemoteProtocolError, ResourceError

MAX_JOB_BYTES: Final = 64 * 1024 * 1024
"""Bytes of all files of a job together, and of its archive."""

MAX_JOB_FILES: Final = 2000
MAX_PATH_CHARACTERS: Final = 200
MAX_PART_BYTES: Final = 240
"""Name of one file or folder, bytes: file systems take 255, and some keep a few for themselves."""

MAX_NAME_CHARACTERS: Final = 63
MAX_FEDERATION_BYTES: Final = 64 * 1024
MAX_FEDERATION_DEPTH: Final = 20
FEDERATION_FILE: Final = "config/config_fed.yml"
_ZIP_DATE: Final = (1980, 1, 1, 0, 0, 0)
_SKIPPED_FOLDERS: Final = frozenset({"__pycache__"})
_RESULTS_FOLDER: Final = "models"  # at the top: what local training writes
_NAME_FILE: Final = ".fedhe-name"

_OPENING: Final = (
    yaml.FlowSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.BlockMappingStartToken,
)
_CLOSING: Final = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken)

# PKWARE APPNOTE 6.3.10, sections 4.3.12, 4.3.15 and 4.3.16
_END_RECORD: Final = struct.Struct("<4s4H2LH")
_END_MAGIC: Final = b"PK\x05\x06"
_LARGE_MAGIC: Final = b"PK\x06\x07"
_LARGE_LOCATOR_BYTES: Final = 20
_MAX_DIRECTORY_BYTES: Final = (MAX_JOB_FILES + 1) * (46 + 4 * MAX_PATH_CHARACTERS)
"""A table of contents: 46 bytes for each entry, and its name in UTF-8."""


@dataclass(frozen=True)
class JobArchive:
    """A job that was read and found well-formed.

    Attributes:
        name: from config_fed.yml, else the name of the folder it was packed from.
        files: path in the job, with forward slashes, to content.
        digest: SHA-256 of the archive, 32 bytes; what a site approves.
        federation: the validated config_fed.yml.
    """

    name: str
    files: Mapping[str, bytes]
    digest: bytes
    federation: FederationConfig


def pack_job(folder: Path) -> bytes:
    """Packs a job folder; the same files give the same bytes.

    Left out are folders `__pycache__`, everything whose name begins with a dot, and the top folder `models`, into which
    local training writes; weights to start from belong into `resources`.

    Raises:
        ConfigError: no such folder, no valid config_fed.yml, a link or special file, too many or too large files.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder", "give the MMAR folder of the job")
    files = dict(_files_below(folder))
    document = files.get(FEDERATION_FILE)
    if document is None:
        raise ConfigError(f"{folder}: {FEDERATION_FILE} is missing", "a job says there how many rounds it has")
    federation = _federation_in(document, folder / FEDERATION_FILE)
    own_name = folder.resolve().name
    if federation.name is None and not _is_name(own_name):
        raise ConfigError(
            f"{folder}: expected a folder's name of 1 to {MAX_NAME_CHARACTERS} printable characters, got {own_name!a}",
            f"rename it, or set name in {FEDERATION_FILE}",
        )
    files[_NAME_FILE] = (federation.name or own_name).encode()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _ZIP_DATE)
            entry.external_attr = 0o100600 << 16
            entry.compress_type = zipfile.ZIP_STORED
            entry.create_system = 3  # Unix, wherever it was packed
            packed.writestr(entry, files[name])
    data = archive.getvalue()
    if len(data) > MAX_JOB_BYTES:
        raise ConfigError(f"{folder}: archive of {len(data)} bytes, at most {MAX_JOB_BYTES} are sent")
    return data


def _files_below(folder: Path) -> Iterator[tuple[str, bytes]]:
    total = count = 0
    seen: dict[str, str] = {}

    def unreadable(error: OSError) -> None:
        raise ConfigError(f"{error.filename}: {error.strerror or error}") from error

    for directory, folders, names in os.walk(folder, onerror=unreadable):
        skipped = {*_SKIPPED_FOLDERS, _RESULTS_FOLDER} if Path(directory) == folder else _SKIPPED_FOLDERS
        folders[:] = sorted(name for name in folders if name not in skipped and not name.startswith("."))
        links = [name for name in folders if (Path(directory) / name).is_symlink()]
        for name in sorted([*names, *links]):
            path = Path(directory) / name
            if name.startswith(".") or name.endswith(".pyc"):
                continue
            relative = path.relative_to(folder).as_posix()
            if not stat.S_ISREG(path.lstat().st_mode):
                raise ConfigError(f"{path}: expected a regular file, got a link or special file")
            if (reason := _unfit(relative)) is not None:
                raise ConfigError(f"{path}: {reason}")
            if (other := seen.setdefault(relative.casefold(), relative)) != relative:
                raise ConfigError(f"{path}: differs from {other} in capitals only", "not every computer can hold both")
            count += 1
            total += path.stat().st_size
            if count > MAX_JOB_FILES or total > MAX_JOB_BYTES:
                raise ConfigError(
                    f"{folder}: more than {MAX_JOB_FILES} files or {MAX_JOB_BYTES} bytes, at {relative}",
                    "keep data outside the job folder",
                )
            try:
                yield relative, path.read_bytes()
            except OSError as error:
                raise ConfigError(f"{path}: {error.strerror or error}") from error


def read_job(archive: bytes) -> JobArchive:
    """Reads an archive that came over the network.

    Raises:
        RemoteProtocolError: not an archive that `pack_job` makes, or over a limit; nothing was written anywhere.
    """
    if len(archive) > MAX_JOB_BYTES:
        raise RemoteProtocolError(f"job archive: expected at most {MAX_JOB_BYTES} bytes, got {len(archive)}")
    _check_directory_size(archive)
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as packed:
            files = dict(_entries(packed, len(archive)))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise RemoteProtocolError(f"job archive: not a readable zip archive: {error}") from error
    name = files.pop(_NAME_FILE, b"job")
    document = files.get(FEDERATION_FILE)
    if document is None:
        raise RemoteProtocolError(f"job archive: {FEDERATION_FILE} is missing")
    try:
        federation = _federation_in(document, Path(FEDERATION_FILE))
        shown = federation.name or name.decode()
    except (ConfigError, UnicodeDecodeError) as error:
        raise RemoteProtocolError(f"job archive: {error}") from error
    if not _is_name(shown):
        raise RemoteProtocolError(
            f"job archive: expected a name of 1 to {MAX_NAME_CHARACTERS} printable characters, got {shown[:80]!r}"
        )
    return JobArchive(shown, MappingProxyType(files), hashlib.sha256(archive).digest(), federation)


def _is_name(name: str) -> bool:
    return 0 < len(name) <= MAX_NAME_CHARACTERS and name.isprintable()


def _federation_in(document: bytes, path: Path) -> FederationConfig:
    """Reads a config_fed.yml that may be hostile.

    Raises:
        ConfigError: with file and line.
    """
    if len(document) > MAX_FEDERATION_BYTES:
        raise ConfigError(f"{path}: {len(document)} bytes, at most {MAX_FEDERATION_BYTES} are read")
    try:
        text = document.decode()
        _refuse_swelling(text, path)
        return federation_config(parse_document(text, path))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error


def _refuse_swelling(text: str, path: Path) -> None:
    """Aliases that multiply, and nesting that takes the parser quadratic time."""
    depth = 0
    for token in yaml.scan(text):
        if isinstance(token, yaml.AliasToken):
            raise ConfigError(f"{path}:{token.start_mark.line + 1}: aliases (*{token.value}) are not allowed here")
        depth += isinstance(token, _OPENING) - isinstance(token, _CLOSING)
        if depth > MAX_FEDERATION_DEPTH:
            raise ConfigError(f"{path}:{token.start_mark.line + 1}: nested more than {MAX_FEDERATION_DEPTH} deep")


def _check_directory_size(archive: bytes) -> None:
    """`zipfile` makes an object for each entry before anyone can count them, so the table of contents is measured."""
    end = archive[-_END_RECORD.size :]
    large = archive[-_END_RECORD.size - _LARGE_LOCATOR_BYTES : -_END_RECORD.size]
    if len(end) < _END_RECORD.size or not end.startswith(_END_MAGIC) or large.startswith(_LARGE_MAGIC):
        raise RemoteProtocolError("job archive: expected a plain zip archive without a comment, got something else")
    size = _END_RECORD.unpack(end)[5]
    if size > _MAX_DIRECTORY_BYTES:
        raise RemoteProtocolError(
            f"job archive: expected a table of contents of at most {_MAX_DIRECTORY_BYTES} bytes, got {size}"
        )


def _entries(packed: zipfile.ZipFile, archive_bytes: int) -> Iterator[tuple[str, bytes]]:
    entries = packed.infolist()
    if len(entries) > MAX_JOB_FILES + 1:
        raise RemoteProtocolError(f"job archive: expected at most {MAX_JOB_FILES} files, got {len(entries)}")
    total = 0
    seen: set[str] = set()
    folders: set[str] = set()
    for entry in entries:
        name = entry.filename
        reason = None if name == _NAME_FILE else _unfit(name)
        if reason is not None or name.casefold() in seen:
            raise RemoteProtocolError(f"job archive: file {name[:80]!r}: {reason or 'there twice'}")
        seen.add(name.casefold())
        folders.update(parent.as_posix().casefold() for parent in PurePosixPath(name).parents)
        if stat.S_IFMT(entry.external_attr >> 16) not in {0, stat.S_IFREG}:
            raise RemoteProtocolError(
                f"job archive: file {name!r}: expected a regular file, got a link or special file"
            )
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise RemoteProtocolError(f"job archive: file {name!r}: expected it not to be compressed")
        total += entry.file_size
        # Files may lie in one another, as many times as there are files (David Fifield, A better zip bomb, 2019).
        if total > archive_bytes:
            raise RemoteProtocolError(
                f"job archive: expected files of less than the archive's {archive_bytes} bytes, got {total} at {name!r}"
            )
        with packed.open(entry) as stream:
            data = stream.read(entry.file_size + 1)
        if len(data) != entry.file_size:
            raise RemoteProtocolError(f"job archive: file {name!r}: expected {entry.file_size} bytes, got more or less")
        yield name, data
    if both := sorted(seen & folders):
        raise RemoteProtocolError(f"job archive: {both[0][:80]!r} is a file and a folder")


def _unfit(name: str) -> str | None:
    """Why a path is not one that a job may have; None if it may."""
    path = PurePosixPath(name)
    if not name or len(name) > MAX_PATH_CHARACTERS or not name.isprintable():
        return f"expected a path of 1 to {MAX_PATH_CHARACTERS} printable characters"
    if path.is_absolute() or "\\" in name or ":" in name or path.as_posix() != name:
        return "expected a plain relative path"
    if any(part in {"..", "."} or part.startswith(".") for part in path.parts):
        return "expected no part that begins with a dot"
    if any(len(part.encode()) > MAX_PART_BYTES for part in path.parts):
        return f"expected names of at most {MAX_PART_BYTES} bytes"
    return None


def unpack_job(archive: bytes, folder: Path) -> None:
    """Writes the job's files so that `folder` holds them and nothing else.

    Cut at any moment, it leaves the old folder, the new one or none, never a part of one.

    Raises:
        RemoteProtocolError: not a job archive.
        ResourceError: disk full or not writable; the old folder is still there.
    """
    job = read_job(archive)
    mark = secrets.token_hex(6)
    fresh, old = (folder.with_name(f".{folder.name}.{mark}.{what}.tmp") for what in ("new", "old"))
    try:
        fresh.mkdir(mode=0o700, parents=True)
        for name, data in job.files.items():
            path = fresh / name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write_durably(path, data)
        for directory, _, _ in os.walk(fresh):
            _sync(Path(directory))
        if folder.exists():
            folder.rename(old)
        try:
            fresh.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
        _sync(folder.parent)
    except OSError as error:
        raise ResourceError(f"{folder}: {error.strerror or error}", "free some space, check the owner") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
