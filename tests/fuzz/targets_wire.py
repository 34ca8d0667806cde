"""Fuzz targets: messages that are passed on as bytes, bitmaps, chunks, and what a failed call tells."""

import struct
from types import SimpleNamespace

import grpc
from claims import Target, refusing
from google.protobuf.message import DecodeError

from fedhe.errors import FedheError, RemoteProtocolError
from fedhe.wire import federation
from fedhe.wire.chunking import bitmap_indices, bitmap_of, check_chunk, digest_of
from fedhe.wire.errors import HINT_KEY, MAX_STATUS_BYTES, abort_arguments, from_status
from fedhe.wire.limits import MAX_CHUNKS, MAX_SITES
from fedhe.wire.messages import (
    ReadyStatement,
    SignedJob,
    check_job_id,
    check_sealed_roster,
    parse_ready,
    parse_signed_job,
    parse_signed_ready,
    write_ready,
    write_signed_job,
)

_CODES = tuple(grpc.StatusCode)


def ready(data: bytes) -> None:
    """The body that a site signs."""
    with refusing(RemoteProtocolError):
        statement = parse_ready(data)
        assert parse_ready(write_ready(statement)) == statement


def signed_ready(data: bytes) -> None:
    """A READY as it is stored and sent on."""
    with refusing(RemoteProtocolError):
        message = parse_signed_ready(data)
        assert parse_ready(message.body).site


def sealed_roster(data: bytes) -> None:
    """The READYs of a round, as gRPC hands them over."""
    roster = federation.SealedRoster()
    try:
        roster.ParseFromString(data)
    except DecodeError:
        return  # gRPC ends such a call itself
    with refusing(RemoteProtocolError):
        statements = check_sealed_roster(roster)
        assert 2 <= len({statement.site for statement in statements}) == len(roster.ready) <= MAX_SITES


def signed_job(data: bytes) -> None:
    """A job with its signature, as sites download it."""
    with refusing(RemoteProtocolError):
        job = parse_signed_job(data)
        assert parse_signed_job(write_signed_job(job)) == job


def job_id(data: bytes) -> None:
    """A job id becomes the name of a folder."""
    with refusing(RemoteProtocolError):
        name = check_job_id(data.decode(errors="surrogateescape"))
        assert name.isascii()
        assert not {"/", ".", "\0", "\n"} & set(name)


def bitmap(data: bytes) -> None:
    """First four bytes: the number of chunks. Then the bitmap."""
    if len(data) < 4:
        return
    chunks, rest = struct.unpack_from("<I", data)[0] % (MAX_CHUNKS + 1), data[4:]
    with refusing(RemoteProtocolError):
        indices = bitmap_indices(rest, chunks)
        assert bitmap_of(indices, chunks) == rest.ljust((chunks + 7) // 8, b"\0")


def object_chunk(data: bytes) -> None:
    """First nine bytes: index, number of chunks, whether the digest fits. Then the payload."""
    if len(data) < 9:
        return
    index, chunks, fits = struct.unpack_from("<iIB", data)
    payload = data[9:]
    digest = digest_of(payload) if fits & 1 else payload[:32]
    with refusing(RemoteProtocolError):
        check_chunk(index, payload, digest, chunks=chunks)
        assert 0 <= index < chunks
        assert fits & 1


def failed_call(data: bytes) -> None:
    """First byte: the status. Then message and hint, which go to a terminal here and, once more, over the wire."""
    code = _CODES[data[0] % len(_CODES)] if data else grpc.StatusCode.UNKNOWN
    message, _, hint = data[1:].partition(b"\xff")
    text = message.decode(errors="surrogateescape")
    call = SimpleNamespace(
        code=lambda: code, details=lambda: text, trailing_metadata=lambda: ((HINT_KEY, hint), ("other", "x"))
    )
    error = from_status(call)
    assert isinstance(error, FedheError)
    assert error.message.isprintable()
    assert (error.hint or "").isprintable()
    _, sent, metadata = abort_arguments(FedheError(text, hint.decode(errors="surrogateescape")))
    assert len(sent.encode()) <= MAX_STATUS_BYTES
    assert all(len(value) <= MAX_STATUS_BYTES for _, value in metadata)


TARGETS = {
    "ready": Target(ready, max_bytes=2048),
    "signed_ready": Target(signed_ready, max_bytes=2048),
    "sealed_roster": Target(sealed_roster),
    "signed_job": Target(signed_job),
    "job_id": Target(job_id, max_bytes=128),
    "bitmap": Target(bitmap, bytes_per_byte=1000),
    "object_chunk": Target(object_chunk, max_bytes=1024),
    "failed_call": Target(failed_call, max_bytes=8192),
}


def statement(site: str = "hospitalA") -> ReadyStatement:
    """What a site says when it stands ready."""
    return ReadyStatement(
        project="brain", job_id="job-1", round=3, attempt=1, site=site, nonce=bytes(16), model_fingerprint=bytes(32),
        layout_digest=bytes(32), key_id=bytes(16), params_id=bytes(16), chunks=7, sealed_note=b"note",
    )  # fmt: skip


def seeds() -> dict[str, list[bytes]]:
    """Valid messages."""
    signed = [
        federation.SignedReady(body=write_ready(statement(site)), signature=b"signature", certificate=b"certificate")
        for site in ("hospitalA", "hospitalB")
    ]
    roster = federation.SealedRoster(job_id="job-1", round=3, attempt=1, ready=signed, context=bytes(32))
    return {
        "ready": [write_ready(statement())],
        "signed_ready": [signed[0].SerializeToString()],
        "sealed_roster": [roster.SerializeToString()],
        "signed_job": [write_signed_job(SignedJob(b"archive", b"signature", b"certificate"))],
        "job_id": [b"20260102-brain-7f3a"],
        "bitmap": [struct.pack("<I", 20) + bitmap_of([0, 3, 19], 20)],
        "object_chunk": [struct.pack("<iIB", 2, 7, 1) + b"payload"],
        "failed_call": [b"\5round 3: expected 2 sites\xfftry again", "\0à la carte\xff".encode()],
    }
