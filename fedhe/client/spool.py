"""Chunks of one object on this site's disk, so that a cut connection or a killed agent costs one chunk.

An encrypted chunk that left the site is kept until its round is over: sent again, it must be the same bytes. Each file
holds the SHA-256 of its content first, so that one that a power failure cut is noticed and counts as absent; then the
round is tried again. Waiting for the disk before each chunk leaves would cost every round more than that.
"""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from fedhe.client.durable import disk_errors, make_folder, write_durably

_DIGEST_BYTES = 32


@dataclass(frozen=True)
class Spool:
    """A folder with one file for each chunk.

    Attributes:
        folder: where the files are.
    """

    folder: Path

    def _file(self, index: int) -> Path:
        return self.folder / f"{index:06d}.chunk"

    def held(self) -> set[int]:
        """The numbers of the chunks that may be there."""
        if not self.folder.is_dir():
            return set()
        return {int(path.stem) for path in self.folder.glob("*.chunk") if path.stem.isdecimal()}

    def put(self, index: int, data: bytes, digest: bytes | None = None) -> bytes:
        """Keeps a chunk; returns its SHA-256, which a caller that knows it gives.

        Raises:
            ResourceError: disk full or read-only.
        """
        make_folder(self.folder)
        digest = digest or hashlib.sha256(data).digest()
        write_durably(self._file(index), digest, data, sync=False)
        return digest

    def get(self, index: int) -> bytes | None:
        """The chunk, or None if it is absent or damaged.

        Raises:
            ResourceError: the disk failed.
        """
        path = self._file(index)
        if not path.exists():
            return None
        with disk_errors(path):
            stored = path.read_bytes()
        data = stored[_DIGEST_BYTES:]
        return data if hashlib.sha256(data).digest() == stored[:_DIGEST_BYTES] else None

    def clear(self) -> None:
        """Removes everything."""
        shutil.rmtree(self.folder, ignore_errors=True)
