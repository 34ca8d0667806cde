"""Big things on disk: folders of numbered chunk files, each complete or not there at all.

A chunk is written beside its place and renamed before `put` returns, so it survives a crash of this process; it
survives one of the system from `complete` on, which waits for the disk once for a whole blob. Until then a mark in the
folder says that it has not, and after a restart such chunks are read and those that are not whole are removed: whoever
sent them is told that they are missing.

A file's name holds its number and its SHA-256, so a listing tells what is stored without reading it. One process owns
the folder (the server's lock sees to that); within it every method may be called from any thread.
"""

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedhe.errors import NotFoundError, RemoteProtocolError, ResourceError, StateError
from fedhe.server.durable import TEMPORARY, disk_error, make_durable_folder
from fedhe.trust.private_files import fsync_file, fsync_folder, write_new

_CHUNK_NAME = re.compile(r"^(\d{8})-([0-9a-f]{64})$")
_MARK = ".incomplete"
_RECENT_BYTES = 12 * 1024 * 1024
_KEY = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.@+-]*(/[A-Za-z0-9][A-Za-z0-9_.@+-]*)*$")


@dataclass(frozen=True)
class StoredChunk:
    """One chunk on disk.

    Args:
        digest: SHA-256 of its bytes.
        size: bytes.
    """

    digest: bytes
    size: int


@dataclass(frozen=True)
class BlobInfo:
    """A complete blob: number of chunks, bytes, and the SHA-256 over the chunks' SHA-256 digests in order."""

    chunks: int
    size: int
    digest: bytes


class BlobStore:
    """Blobs below one folder, each under a key such as `job-1/update/3-1/hospitalA`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._index: dict[str, dict[int, StoredChunk]] = {}
        self._recent: OrderedDict[bytes, bytes] = OrderedDict()  # what was lately written or read, by digest
        make_durable_folder(root)

    def sweep(self) -> None:
        """Removes what a crash left half written or half removed; called once, before anything is stored."""
        for folder, names, files in os.walk(self._root):
            for name in [name for name in names if name.startswith(TEMPORARY)]:
                shutil.rmtree(Path(folder) / name, ignore_errors=True)
                names.remove(name)
            for name in files:
                if name.startswith(TEMPORARY):
                    (Path(folder) / name).unlink(missing_ok=True)
            if _MARK in files:
                _remove_damaged(Path(folder))

    def put(self, key: str, index: int, data: bytes, digest: bytes | None = None) -> bool:
        """Stores one chunk, for good once `complete` returned.

        Args:
            key: the blob.
            index: the chunk's number.
            data: its bytes.
            digest: their SHA-256, if the caller has computed it.

        Returns:
            True if it is new, False if the same bytes were stored already.

        Raises:
            RemoteProtocolError: the chunk is stored with other bytes.
            ResourceError: no space; nothing of the chunk is left behind.
        """
        chunk = StoredChunk(digest or hashlib.sha256(data).digest(), len(data))
        folder = self._folder(key)
        if self._is_stored(key, index, chunk):
            return False
        try:
            try:
                new = self._write(key, folder, index, chunk, data)
            except FileNotFoundError:
                # Another thread dropped what was below the same folder just now, and the folder with it.
                new = self._write(key, folder, index, chunk, data)
        except OSError as error:
            raise disk_error(error, f"chunk {index} of {key}") from error
        self._remember(chunk.digest, data)
        return new

    def complete(self, key: str, chunks: int) -> BlobInfo:
        """Makes sure that a blob has all of its `chunks` chunks, and has them on the disk; see `describe`.

        Raises:
            StateError: chunks are missing, or more are stored; names them.
            ResourceError: the disk failed.
        """
        info, folder = self.describe(key, chunks), self._folder(key)
        mark = folder / _MARK
        try:
            if mark.exists():
                for index, chunk in self.chunks(key).items():
                    fsync_file(folder / _name(index, chunk.digest))
                # Those above as well: the thread that made one may have been overtaken before it waited for the disk.
                for above in (folder, *folder.parents):
                    fsync_folder(above)
                    if above == self._root:
                        break
                mark.unlink(missing_ok=True)
        except OSError as error:
            raise disk_error(error, key) from error
        return info

    def chunks(self, key: str) -> Mapping[int, StoredChunk]:
        """What is stored of a blob, by chunk number; empty if nothing is."""
        with self._lock:
            return dict(self._chunks(key))

    def chunk(self, key: str, index: int) -> StoredChunk | None:
        """What is stored of one chunk of a blob, if anything."""
        with self._lock:
            return self._chunks(key).get(index)

    def size(self, key: str) -> int:
        """Bytes stored of a blob."""
        with self._lock:
            return sum(chunk.size for chunk in self._chunks(key).values())

    def get(self, key: str, index: int) -> tuple[bytes, bytes]:
        """One chunk's bytes and their SHA-256 as it was when they were stored.

        Raises:
            NotFoundError: the chunk is not stored.
            ResourceError: the file cannot be read, or no longer holds what was stored.
        """
        path, chunk = self.locate(key, index)
        with self._lock:
            if (recent := self._recent.get(chunk.digest)) is not None:
                return recent, chunk.digest
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise NotFoundError(f"chunk {index} of {key} was dropped meanwhile") from error
        except OSError as error:
            raise disk_error(error, str(path)) from error
        check_chunk(path, data, chunk.digest)
        self._remember(chunk.digest, data)
        return data, chunk.digest

    def locate(self, key: str, index: int) -> tuple[Path, StoredChunk]:
        """The file of a stored chunk.

        Raises:
            NotFoundError: the chunk is not stored.
        """
        chunk = self.chunk(key, index)
        if chunk is None:
            raise NotFoundError(f"chunk {index} of {key} is not stored")
        return self._folder(key) / _name(index, chunk.digest), chunk

    def describe(self, key: str, chunks: int) -> BlobInfo:
        """Describes a blob that has all of its `chunks` chunks.

        Raises:
            StateError: chunks are missing, or more are stored; names them.
        """
        stored = self.chunks(key)
        missing = [index for index in range(chunks) if index not in stored]
        beyond = sorted(index for index in stored if index >= chunks)
        if missing or beyond:
            raise StateError(
                f"{key}: expected chunks 0 to {chunks - 1}, "
                + (f"missing {shorten(missing)}" if missing else f"also stored {shorten(beyond)}"),
                "send the missing chunks" if missing else None,
            )
        parts = [stored[index] for index in range(chunks)]
        return BlobInfo(
            chunks, sum(part.size for part in parts), hashlib.sha256(b"".join(part.digest for part in parts)).digest()
        )

    def drop(self, key: str) -> None:
        """Removes a blob, or all blobs below a key; nothing happens if there is none.

        Raises:
            ResourceError: the folder cannot be removed.
        """
        folder = self._folder(key)
        with self._lock:
            for known in [name for name in self._index if name == key or name.startswith(f"{key}/")]:
                del self._index[known]
            if not folder.exists():
                return
            # Renamed first, so that a crash half way leaves no folder that looks like a blob with chunks missing.
            grave = folder.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
            try:
                folder.rename(grave)
            except OSError as error:
                raise disk_error(error, key) from error
        shutil.rmtree(grave, ignore_errors=True)
        with contextlib.suppress(OSError):  # the folders above stay if anything else is in them
            for above in folder.parents:
                if above == self._root:
                    break
                above.rmdir()

    def folders(self, key: str) -> list[str]:
        """Names of the folders right below a key, sorted."""
        folder = self._folder(key) if key else self._root
        if not folder.is_dir():
            return []
        return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))

    def disk_usage(self) -> tuple[int, int]:
        """Bytes that the blobs take, and bytes that are free on their disk."""
        used = 0
        for folder, _, files in os.walk(self._root):
            for name in files:
                try:
                    used += (Path(folder) / name).stat().st_size
                except FileNotFoundError:  # dropped while we walk
                    continue
        return used, shutil.disk_usage(self._root).free

    def _write(self, key: str, folder: Path, index: int, chunk: StoredChunk, data: bytes) -> bool:
        temporary = folder / f"{TEMPORARY}{index}-{secrets.token_hex(8)}"
        make_durable_folder(folder)
        if not (mark := folder / _MARK).exists():
            mark.touch(mode=0o600)
            fsync_folder(folder)
        try:
            write_new(temporary, data, sync=False)
            with self._lock:
                stored = self._chunks(key)
                if (now := stored.get(index)) is None:
                    temporary.rename(folder / _name(index, chunk.digest))
                    stored[index] = chunk
                elif now != chunk:
                    raise _other_content(key, index, now, chunk)
        finally:
            temporary.unlink(missing_ok=True)
        return now is None

    def _remember(self, digest: bytes, data: bytes) -> None:
        """Keeps a few chunks in memory: sites' chunks until they are summed, a sum's until all sites have it."""
        with self._lock:
            self._recent[digest] = data
            while sum(map(len, self._recent.values())) > _RECENT_BYTES:
                self._recent.popitem(last=False)

    def _folder(self, key: str) -> Path:
        if not _KEY.match(key):
            raise RemoteProtocolError(f"expected a blob key of names and slashes, got {key[:80]!r}")
        return self._root / key

    def _chunks(self, key: str) -> dict[int, StoredChunk]:
        if (known := self._index.get(key)) is not None:
            return known
        found: dict[int, StoredChunk] = {}
        folder = self._folder(key)
        if not folder.is_dir():
            return found  # not kept: a site may ask for any number of objects that never were
        for entry in folder.iterdir():
            if match := _CHUNK_NAME.match(entry.name):
                found[int(match[1])] = StoredChunk(bytes.fromhex(match[2]), entry.stat().st_size)
        self._index[key] = found
        return found

    def _is_stored(self, key: str, index: int, chunk: StoredChunk) -> bool:
        stored = self.chunk(key, index)
        if stored is not None and stored != chunk:
            raise _other_content(key, index, stored, chunk)
        return stored is not None


def _remove_damaged(folder: Path) -> None:
    """Removes what a power cut left of chunks that had not reached the disk."""
    for entry in folder.iterdir():
        match = _CHUNK_NAME.match(entry.name)
        if match and hashlib.sha256(entry.read_bytes()).hexdigest() != match[2]:
            entry.unlink()


def check_chunk(path: Path, data: bytes, digest: bytes) -> None:
    """Raises ResourceError if the bytes read from `path` are not those that were stored."""
    if (actual := hashlib.sha256(data).digest()) != digest:
        raise ResourceError(
            f"{path}: expected content with SHA-256 {digest.hex()[:16]}..., found {actual.hex()[:16]}...",
            "the disk has lost data: check it, then abort the job or remove the file",
        )


def shorten(numbers: list[int], most: int = 10) -> str:
    """The first few of many numbers, as text."""
    text = ", ".join(str(number) for number in numbers[:most])
    return text if len(numbers) <= most else f"{text} and {len(numbers) - most} more"


def _name(index: int, digest: bytes) -> str:
    return f"{index:08d}-{digest.hex()}"


def _other_content(key: str, index: int, stored: StoredChunk, offered: StoredChunk) -> RemoteProtocolError:
    return RemoteProtocolError(
        f"chunk {index} of {key}: expected the bytes stored before ({stored.size} bytes, SHA-256 "
        f"{stored.digest.hex()[:16]}...), got others ({offered.size} bytes, SHA-256 {offered.digest.hex()[:16]}...)",
        "a stored chunk is never replaced; ask UploadStatus what is stored",
    )
