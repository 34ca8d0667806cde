"""Fuzz targets: ciphertext chunks, sums of them, decryption, and the secret key's file.

The first byte of an input says how it is read, the rest is what is read. A chunk has tens of thousands of bytes of
residues, of which no bit matters more than another: `stretched` repeats the end of a short input to the length that its
header claims, so that the corpus stays small and the fuzzer gets past the check of the length.
"""

import dataclasses
import hashlib
import struct
from functools import lru_cache
from pathlib import Path

import numpy as np
from claims import MIB, Target, refusing

from fedhe.errors import CapacityError, RemoteProtocolError, TrustError
from fedhe.he import ciphertext
from fedhe.he.ciphertext import HEADER_BYTES, C1Form, ChunkHeader, ChunkKind, Expectation, read_chunk, write_chunk
from fedhe.he.engine import Engine
from fedhe.he.fast_engine import FastEngine
from fedhe.he.keys import KEY_FILE_BYTES, SecretKey
from fedhe.he.params import DEFAULT_PARAMS
from fedhe.he.seal_engine import SealEngine
from fedhe.he.sums import add_chunks

VECTORS = Path(__file__).parents[1] / "vectors"
CONTEXT, INDEX = hashlib.sha256(b"golden").digest(), 5
MAX_STRETCHED_BYTES = 128 * 1024
"""Two ciphertexts with both halves."""


@lru_cache(maxsize=1)
def insecure_key() -> SecretKey:
    """The published key of the golden vectors."""
    return SecretKey.from_bytes((VECTORS / "insecure_test_key.bin").read_bytes())


@lru_cache(maxsize=1)
def golden_sum() -> bytes:
    """The sum of two sites' chunks under that key."""
    return (VECTORS / "sum.fhct").read_bytes()


@lru_cache(maxsize=1)
def _engines() -> tuple[Engine, Engine]:
    return SealEngine(DEFAULT_PARAMS, insecure_key()), FastEngine(DEFAULT_PARAMS, insecure_key())


def expectation(kind: ChunkKind, count: int | None = None, sites: int | None = None) -> Expectation:
    """What a golden chunk says of itself."""
    return Expectation(kind, insecure_key().key_id, DEFAULT_PARAMS.params_id, CONTEXT, INDEX, count, sites)


def stretched(data: bytes) -> bytes:
    """A chunk as long as its header claims, if that is not too much to make up."""
    head, rest = data[:HEADER_BYTES], data[HEADER_BYTES:]
    if len(head) < HEADER_BYTES or not rest:
        return data
    _, _, kind_byte, primes, bits, degree, index, count, sites, *ids = ciphertext._HEADER.unpack(head)
    kind, c1 = ciphertext._KINDS.get(kind_byte, (ChunkKind.SUM, C1Form.WHOLE))
    size = ChunkHeader(kind, c1, primes, bits, degree, index, count, sites, *ids).body_bytes
    if size > MAX_STRETCHED_BYTES:
        return data
    return head + (rest * (size // len(rest) + 1))[:size]


def chunk(data: bytes) -> None:
    """Bit 0 of the first byte: as it is or stretched. Bit 1: upload or sum. Bits 2, 3: is count, are sites known?"""
    mode, body = data[:1] or b"\0", data[1:]
    kind = ChunkKind.SUM if mode[0] & 2 else ChunkKind.UPLOAD
    expect = expectation(kind, 1 if mode[0] & 4 else None, 1 + mode[0] // 16 if mode[0] & 8 else None)
    whole = stretched(body) if mode[0] & 1 else body
    with refusing(RemoteProtocolError):
        found = read_chunk(whole, expect=expect, params=DEFAULT_PARAMS)
        assert found.header.kind is kind
        assert found.seeds.shape == found.header.seeds_shape
        assert found.polynomials.shape == found.header.polynomials_shape
        assert write_chunk(found.header, found.seeds, found.polynomials) == whole, "a chunk has two forms"


def chunk_sums(data: bytes) -> None:
    """First byte: how many seeds are handed on. Then chunks, each behind its length in two bytes."""
    most, parts = (data[0] % 4 if data else 0), list(_parts(data[1:], 4))
    expect = expectation(ChunkKind.UPLOAD)
    with refusing(RemoteProtocolError, CapacityError):
        total = add_chunks(parts, DEFAULT_PARAMS, expect, max_forwarded=most)
        assert add_chunks(parts[::-1], DEFAULT_PARAMS, expect, max_forwarded=most) == total, "order matters"
        header = read_chunk(total, expect=expectation(ChunkKind.SUM), params=DEFAULT_PARAMS).header
        assert header.sites == len(parts)


def decryption(data: bytes) -> None:
    """Bit 0 of the first byte: stretched. Bit 1: the golden sum, some bytes replaced. The engines must agree."""
    mode, body = data[:1] or b"\0", data[1:]
    whole = stretched(body) if mode[0] & 1 else body
    if mode[0] & 2:
        altered = bytearray(golden_sum())
        for place, byte in struct.iter_unpack("<IB", body[: len(body) // 5 * 5]):
            altered[place % len(altered)] = byte
        whole = bytes(altered)
    expect = expectation(ChunkKind.SUM)
    found = []
    for engine in _engines():
        with refusing(RemoteProtocolError, TrustError):
            found.append(engine.decrypt(whole, expect).tobytes())
    # SEAL refuses a c1 of zeros, which the other engine has no reason to: one may refuse what the other reads.
    assert len(set(found)) <= 1, "the engines differ"


def secret_key(data: bytes) -> None:
    """Bit 0 of the first byte: stretched to a file's length and given its checksum. Bit 1: given its id, too."""
    mode, body = data[:1] or b"\0", data[1:]
    if mode[0] & 1 and body:
        rest = (body * (KEY_FILE_BYTES // len(body) + 1))[: KEY_FILE_BYTES - 32]
        if mode[0] & 2:
            ring_id, residues = rest[17:33], np.frombuffer(rest[49:], dtype="<u4").reshape(3, -1)
            rest = rest[:33] + SecretKey(ring_id, residues).key_id + rest[49:]
        body = rest + hashlib.sha256(rest).digest()
    with refusing(TrustError):
        assert SecretKey.from_bytes(body).to_bytes() == body, "a key has two forms"


def _parts(data: bytes, most: int) -> list[bytes]:
    found = []
    while len(data) > 2 and len(found) < most:
        (length,) = struct.unpack_from("<H", data)
        found.append(stretched(data[2 : 2 + length]))
        data = data[2 + length :]
    return found


TARGETS = {
    "chunk": Target(chunk, max_bytes=1024),
    "chunk_sums": Target(chunk_sums, max_bytes=1024, slack_bytes=2 * MIB),
    "decryption": Target(decryption, max_bytes=1024, slack_bytes=2 * MIB),
    "secret_key": Target(secret_key, max_bytes=1024),
}


def seeds() -> dict[str, list[bytes]]:
    """Valid inputs: a chunk of each form, short enough to be stretched; sums of two; the golden sum; the golden key."""
    found: dict[str, list[bytes]] = {}
    base = ChunkHeader(
        ChunkKind.UPLOAD, C1Form.SEAL_SEEDS, 2, 30, 4096, INDEX, 1, 1,
        insecure_key().key_id, DEFAULT_PARAMS.params_id, CONTEXT,
    )  # fmt: skip
    forms = {
        1: base,
        1 | 4 | 8: dataclasses.replace(base, c1=C1Form.AES_SEEDS),
        1 | 2: dataclasses.replace(base, kind=ChunkKind.SUM, c1=C1Form.WHOLE, sites=3),
        1 | 2 | 8 | 16: dataclasses.replace(base, kind=ChunkKind.SUM, c1=C1Form.AES_SEEDS, sites=2),
    }
    short = {mode: form.to_bytes() + bytes(range(1, 65)) for mode, form in forms.items()}
    found["chunk"] = [bytes([mode]) + data for mode, data in short.items()]
    found["decryption"] = [b"\2"]
    both = [short[1], short[1 | 4 | 8], short[1][:-64] + bytes(range(2, 66))]
    found["chunk_sums"] = [
        b"\2" + b"".join(struct.pack("<H", len(one)) + one for one in chosen) for chosen in ([short[1]], both)
    ]
    found["secret_key"] = [b"\3" + insecure_key().to_bytes()[:80]]
    return found
