"""The file of a sealed checkpoint: what the server stores of a model, kept for whoever holds the group key.

Magic, one byte version, 4-byte big-endian length of a JSON header, the header, then each sealed chunk behind its
4-byte big-endian length. Nothing in it is secret: it is what the server holds.
"""

import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from fedhe.errors import ConfigError, RemoteProtocolError
from fedhe.wire.limits import MAX_CHUNK_BYTES, MAX_CHUNKS

MAGIC = b"fedhe-sealed-model"
VERSION = 1
MAX_HEADER_BYTES = 4096
_HEAD = struct.Struct(f">{len(MAGIC)}sBI")
_LENGTH = struct.Struct(">I")


@dataclass(frozen=True)
class SealedHeader:
    """Which checkpoint a sealed file holds.

    Attributes:
        project: the project whose group key opens it.
        job_id: the job that the model belongs to.
        version: rounds applied to the model.
        chunks: number of sealed chunks that follow.
    """

    project: str
    job_id: str
    version: int
    chunks: int


def write_sealed(file: BinaryIO, header: SealedHeader, chunks: Iterable[bytes]) -> None:
    """Writes header and sealed chunks, one after the other."""
    described = json.dumps(asdict(header), sort_keys=True).encode()
    file.write(_HEAD.pack(MAGIC, VERSION, len(described)))
    file.write(described)
    for chunk in chunks:
        file.write(_LENGTH.pack(len(chunk)))
        file.write(chunk)


def read_header(file: BinaryIO, path: Path) -> SealedHeader:
    """Reads the header from the beginning of `file`; `read_chunks` goes on from there.

    Raises:
        ConfigError: the file is not a sealed checkpoint; `path` is named.
        RemoteProtocolError: a version or header that this fedhe does not know.
    """
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size or not head.startswith(MAGIC):
        raise ConfigError(
            f"{path}: expected a sealed checkpoint, found a file that begins with {head[:8].hex() or 'nothing'}",
            "make one with 'fedhe-admin model download JOB --out FILE.sealed'",
        )
    _, version, length = _HEAD.unpack(head)
    if version != VERSION:
        raise RemoteProtocolError(f"{path}: expected format version {VERSION}, got {version}", "update fedhe here")
    if length > MAX_HEADER_BYTES:
        raise RemoteProtocolError(f"{path}: expected a header of at most {MAX_HEADER_BYTES} bytes, got {length}")
    return _parse_header(_exactly(file, length, path), path)


def read_chunks(file: BinaryIO, header: SealedHeader, path: Path) -> Iterator[bytes]:
    """Yields the sealed chunks in order.

    Raises:
        RemoteProtocolError: a chunk is too large, the file ends early or goes on behind the last chunk.
    """
    for index in range(header.chunks):
        (length,) = _LENGTH.unpack(_exactly(file, _LENGTH.size, path))
        if length > MAX_CHUNK_BYTES:
            raise RemoteProtocolError(f"{path}: chunk {index} has {length} bytes, at most {MAX_CHUNK_BYTES} are read")
        yield _exactly(file, length, path)
    if file.read(1):
        raise RemoteProtocolError(f"{path}: expected the end of the file behind chunk {header.chunks - 1}")


def _exactly(file: BinaryIO, count: int, path: Path) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise RemoteProtocolError(f"{path}: the file ends {count - len(data)} bytes early", "download it again")
    return data


def _parse_header(data: bytes, path: Path) -> SealedHeader:
    try:
        value: Any = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError(f"{path}: the header is not JSON") from error
    expected = {"project": str, "job_id": str, "version": int, "chunks": int}
    if not isinstance(value, dict) or {name: type(part) for name, part in value.items()} != expected:
        raise RemoteProtocolError(f"{path}: expected a header with {', '.join(expected)}")
    if not 1 <= value["chunks"] <= MAX_CHUNKS or not 0 <= value["version"] < 2**32:
        raise RemoteProtocolError(
            f"{path}: expected 1 to {MAX_CHUNKS} chunks of a version below 2^32, "
            f"got {value['chunks']} of version {value['version']}"
        )
    return SealedHeader(**value)
