"""Objects as numbered chunks: split, digest, and the bitmap of what has arrived."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence

from fedhe.errors import RemoteProtocolError
from fedhe.wire.limits import MAX_CHUNK_BYTES, MAX_CHUNKS

CHUNK_BYTES = 1024 * 1024
"""Size at which an object without chunks of its own is cut, bytes."""

DIGEST_BYTES = 32


def split(data: bytes, size: int = CHUNK_BYTES) -> Iterator[bytes]:
    """Cuts `data` into chunks of `size` bytes, the last one shorter; empty data is one empty chunk."""
    for start in range(0, max(len(data), 1), size):
        yield data[start : start + size]


def digest_of(data: bytes) -> bytes:
    """SHA-256 of one chunk, 32 bytes."""
    return hashlib.sha256(data).digest()


def digest_of_digests(digests: Sequence[bytes]) -> bytes:
    """SHA-256 over the chunks' digests in order: the digest of an object, 32 bytes."""
    return hashlib.sha256(b"".join(digests)).digest()


def check_chunk(index: int, data: bytes, digest: bytes, *, chunks: int = MAX_CHUNKS) -> None:
    """Checks a chunk that came over the network.

    Args:
        index: the chunk's number, from 0.
        data: its payload.
        digest: its SHA-256 as told by the other side.
        chunks: how many chunks the object has or may have.

    Raises:
        RemoteProtocolError: number out of range, too large, or the digest differs.
    """
    if not 0 <= index < chunks:
        raise RemoteProtocolError(f"chunk {index}: expected a number below {chunks}")
    if len(data) > MAX_CHUNK_BYTES:
        raise RemoteProtocolError(f"chunk {index}: expected at most {MAX_CHUNK_BYTES} bytes, got {len(data)}")
    if (actual := digest_of(data)) != digest:
        raise RemoteProtocolError(f"chunk {index}: expected SHA-256 {digest.hex()}, got {actual.hex()}")


def bitmap_of(indices: Iterable[int], chunks: int) -> bytes:
    """Bit i, least significant first, of byte i // 8 says that chunk i is there; `(chunks + 7) // 8` bytes."""
    bitmap = bytearray((chunks + 7) // 8)
    for index in indices:
        bitmap[index // 8] |= 1 << (index % 8)
    return bytes(bitmap)


def bitmap_indices(bitmap: bytes, chunks: int) -> list[int]:
    """Numbers of the chunks that a bitmap from the network says are there, ascending.

    Raises:
        RemoteProtocolError: the bitmap is longer than `chunks` bits need, or says so of a chunk beyond.
    """
    if len(bitmap) > (chunks + 7) // 8:
        raise RemoteProtocolError(f"bitmap: expected at most {(chunks + 7) // 8} bytes, got {len(bitmap)}")
    indices = [8 * position + bit for position, byte in enumerate(bitmap) for bit in range(8) if byte >> bit & 1]
    if indices and indices[-1] >= chunks:
        raise RemoteProtocolError(f"bitmap: expected chunks below {chunks}, got {indices[-1]}")
    return indices
