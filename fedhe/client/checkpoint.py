"""The sealed checkpoint: a model's layout and float32 weights in chunks that only key holders can open.

Plain form: magic, one byte version, 4-byte big-endian length of the layout's JSON, that JSON, then the flat vector
as little-endian float32. It is cut into pieces of `PIECE_BYTES`; each is sealed for its job, version, place and
number of pieces, so that pieces cannot be swapped, dropped or taken from another checkpoint.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedhe.errors import RemoteProtocolError
from fedhe.model.layout import Layout
from fedhe.trust.sealed import GroupKey, open_checkpoint_chunk, seal_checkpoint_chunk

PIECE_BYTES = 1024 * 1024
MAX_LAYOUT_BYTES = 16 * 1024 * 1024
_MAGIC = b"fedhe-checkpoint"
_VERSION = 1
_HEAD = struct.Struct(f">{len(_MAGIC)}sBI")


@dataclass(frozen=True)
class CheckpointSealer:
    """Seals one model's checkpoint, chunk by chunk.

    Attributes:
        key: the sites' group key.
        job_id: the job that the model belongs to.
        version: rounds applied to the model.
        plain: the checkpoint's plain form, see `plain_checkpoint`.
    """

    key: GroupKey
    job_id: str
    version: int
    plain: bytes = field(repr=False)

    @property
    def chunks(self) -> int:
        """Number of chunks; at least 1."""
        return -(-len(self.plain) // PIECE_BYTES)

    def seal(self, index: int) -> bytes:
        """The sealed chunk, a little over `PIECE_BYTES` bytes at most; another one each time it is asked."""
        piece = self.plain[index * PIECE_BYTES : (index + 1) * PIECE_BYTES]
        return seal_checkpoint_chunk(self.key, self.job_id, self.version, index, self.chunks, piece)


def open_checkpoint(
    key: GroupKey, job_id: str, version: int, chunks: Iterable[bytes], count: int
) -> tuple[Layout, NDArray[np.float32]]:
    """Opens the `count` sealed chunks, in order, to layout and (n_values,) float32 vector.

    Raises:
        TrustError: another key, job, version, order or number of chunks, or altered.
        RemoteProtocolError: sealed by a key holder, but not a checkpoint, or with values that are not finite.
    """
    data = bytearray()
    for index, chunk in enumerate(chunks):
        data += open_checkpoint_chunk(key, job_id, version, index, count, chunk)
    return _read(memoryview(data))


def plain_checkpoint(layout: Layout, vector: NDArray[np.float32]) -> bytes:
    """The checkpoint before sealing, of a model with (layout.n_values,) float32 values."""
    described = layout.to_json().encode()
    head = _HEAD.pack(_MAGIC, _VERSION, len(described))
    return b"".join((head, described, np.ascontiguousarray(vector, dtype="<f4").data))


def _read(data: memoryview) -> tuple[Layout, NDArray[np.float32]]:
    if len(data) < _HEAD.size:
        raise RemoteProtocolError(f"checkpoint: expected at least {_HEAD.size} bytes, got {len(data)}")
    magic, version, length = _HEAD.unpack_from(data)
    if magic != _MAGIC:
        raise RemoteProtocolError(f"checkpoint: expected it to begin with {_MAGIC!r}, got {bytes(magic)!r}")
    if version != _VERSION:
        raise RemoteProtocolError(f"checkpoint: expected version {_VERSION}, got {version}", "update fedhe here")
    if length > min(MAX_LAYOUT_BYTES, len(data) - _HEAD.size):
        raise RemoteProtocolError(f"checkpoint: a layout of {length} bytes does not fit into {len(data)} bytes")
    begin = _HEAD.size + length
    layout = Layout.from_json(bytes(data[_HEAD.size : begin]))
    if (actual := len(data) - begin) != 4 * layout.n_values:
        raise RemoteProtocolError(f"checkpoint: expected {4 * layout.n_values} bytes of weights, got {actual}")
    vector = np.frombuffer(data, dtype="<f4", offset=begin).astype(np.float32)
    if not np.isfinite(vector).all():
        raise RemoteProtocolError("checkpoint: weights must be finite, got NaN or infinity")
    return layout, vector
