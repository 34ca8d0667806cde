"""A flat float32 vector on disk: a safetensors file whose tensors lie in the layout's order, so that it is the vector.

The safetensors library sorts tensors and copies each several times; for the files that a round reads again and again
the site writes the same format itself. Whoever reads it with the library gets the named tensors.
"""

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedhe.client.durable import write_durably
from fedhe.errors import StateError
from fedhe.model.layout import Layout

_ALIGNMENT = 8  # of where the values begin; spaces fill the header


@dataclass(frozen=True)
class _Stamp:
    """What changes when a file's content does; the last one cannot be set by a program that has the file open."""

    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> "_Stamp":
        return cls(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@dataclass(frozen=True)
class VectorFiles:
    """Reads and writes the vectors of one job, and hashes a file that did not change since the last time only once."""

    _checked: dict[Path, tuple[_Stamp, bytes]] = field(default_factory=dict, repr=False)

    def write(self, path: Path, vector: NDArray[np.float32], layout: Layout) -> bytes:
        """Stores a flat (n_values,) float32 vector as named tensors; returns its digest.

        Raises:
            ResourceError: disk full or read-only; the old file is untouched.
        """
        values = np.ascontiguousarray(vector, dtype="<f4").data
        digest = vector_digest(vector)
        write_durably(path, _header(layout), values)
        for gone in [one for one in self._checked if not one.exists()]:  # of rounds that are over
            del self._checked[gone]
        self._checked[path] = _Stamp.of(path.stat()), digest
        return digest

    def check(self, path: Path, layout: Layout, digest: bytes) -> None:
        """Makes sure that `read` would succeed, without reading a file that did not change.

        Raises:
            StateError: as `read`.
        """
        with contextlib.suppress(OSError):
            if self._checked.get(path) == (_Stamp.of(path.stat()), digest):
                return
        self.read(path, layout, digest)

    def read(self, path: Path, layout: Layout, digest: bytes) -> NDArray[np.float32]:
        """Reads what `write` stored; a new (n_values,) float32.

        Raises:
            StateError: the file is gone, damaged, or is not the one whose digest was recorded.
        """
        expected = _header(layout)
        try:
            with path.open("rb") as file:
                stamp = _Stamp.of(os.fstat(file.fileno()))
                header = file.read(len(expected))
                if header != expected or stamp.size != len(expected) + 4 * layout.n_values:
                    raise StateError(f"{path.name}: expected the tensors of this job's model, got another file")
                vector = np.fromfile(file, dtype="<f4", count=layout.n_values)
        except OSError as error:
            raise StateError(f"{path.name}: cannot be read ({error.strerror})") from error
        if self._checked.get(path) != (stamp, digest):
            if (actual := vector_digest(vector)) != digest:
                raise StateError(f"{path.name}: expected digest {digest.hex()[:16]}…, got {actual.hex()[:16]}…")
            self._checked[path] = stamp, digest
        return vector.astype(np.float32, copy=False)


def vector_digest(vector: NDArray[np.float32]) -> bytes:
    """SHA-256 over the vector's values as little-endian float32, 32 bytes."""
    return hashlib.sha256(np.ascontiguousarray(vector, dtype="<f4").data).digest()


def _header(layout: Layout) -> bytes:
    """Length of a JSON text as 8 bytes, little-endian, and the text: for each tensor its type, shape and place."""
    entries = {
        tensor.name: {"dtype": "F32", "shape": tensor.shape, "data_offsets": [4 * part.start, 4 * part.stop]}
        for tensor, part in zip(layout.tensors, layout.slices(), strict=True)
    }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
