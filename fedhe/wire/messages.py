"""Parsers of the messages that are signed as bytes and passed on; each returns a valid value or raises one error."""

import re
from collections.abc import AsyncIterable, Iterator
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from fedhe.errors import RemoteProtocolError
from fedhe.wire.generated.admin_pb2 import SubmitJobRequest
from fedhe.wire.generated.federation_pb2 import ReadyBody, SealedRoster, SignedReady
from fedhe.wire.limits import (
    MAX_ATTEMPTS,
    MAX_CHUNK_BYTES,
    MAX_CHUNKS,
    MAX_JOB_MESSAGE_BYTES,
    MAX_NOTE_BYTES,
    MAX_READY_BYTES,
    MAX_ROUNDS,
    MAX_SITES,
    MAX_SMALL_MESSAGE_BYTES,
)

NONCE_BYTES: Final = 16
ID_BYTES: Final = 16
FINGERPRINT_BYTES: Final = 32
MAX_CERTIFICATE_BYTES: Final = 8192
MAX_SIGNATURE_BYTES: Final = 256

READY_LABEL: Final = b"fedhe/v1/ready\0"
JOB_LABEL: Final = b"fedhe/v1/job\0"

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.@+-]{0,62}")
_JOB_ID: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


@dataclass(frozen=True)
class ReadyStatement:
    """What a site says when it stands ready to upload; fields as in `ReadyBody`, all checked for range and size."""

    project: str
    job_id: str
    round: int
    attempt: int
    site: str
    nonce: bytes
    model_fingerprint: bytes
    layout_digest: bytes
    key_id: bytes
    params_id: bytes
    chunks: int
    sealed_note: bytes

    def __post_init__(self) -> None:
        _text("project", self.project, _NAME)
        _text("job id", self.job_id, _JOB_ID)
        _text("site", self.site, _NAME)
        _range("round", self.round, 1, MAX_ROUNDS)
        _range("attempt", self.attempt, 1, MAX_ATTEMPTS)
        _range("number of chunks", self.chunks, 1, MAX_CHUNKS)
        _size("nonce", self.nonce, NONCE_BYTES)
        _size("model fingerprint", self.model_fingerprint, FINGERPRINT_BYTES)
        _size("layout digest", self.layout_digest, FINGERPRINT_BYTES)
        _size("key id", self.key_id, ID_BYTES)
        _size("parameter id", self.params_id, ID_BYTES)
        _range("size of the sealed note in bytes", len(self.sealed_note), 1, MAX_NOTE_BYTES)


@dataclass(frozen=True)
class SignedJob:
    """A job archive with the signature of the admin who submitted it; `certificate` is DER."""

    archive: bytes
    signature: bytes
    certificate: bytes

    def __post_init__(self) -> None:
        _range("size of the signature in bytes", len(self.signature), 1, MAX_SIGNATURE_BYTES)
        _range("size of the certificate in bytes", len(self.certificate), 1, MAX_CERTIFICATE_BYTES)


def parse_ready(body: bytes) -> ReadyStatement:
    """Reads the body of a READY.

    Raises:
        RemoteProtocolError: not a `ReadyBody`, or a field is out of its range; says expected and actual.
    """
    message = ReadyBody()
    _parse(message, body, "READY", MAX_READY_BYTES)
    return ReadyStatement(
        project=message.project,
        job_id=message.job_id,
        round=message.round,
        attempt=message.attempt,
        site=message.site,
        nonce=message.nonce,
        model_fingerprint=message.model_fingerprint,
        layout_digest=message.layout_digest,
        key_id=message.key_id,
        params_id=message.params_id,
        chunks=message.chunks,
        sealed_note=message.sealed_note,
    )


def write_ready(statement: ReadyStatement) -> bytes:
    """The body of a READY, to be signed and sent."""
    return ReadyBody(
        project=statement.project,
        job_id=statement.job_id,
        round=statement.round,
        attempt=statement.attempt,
        site=statement.site,
        nonce=statement.nonce,
        model_fingerprint=statement.model_fingerprint,
        layout_digest=statement.layout_digest,
        key_id=statement.key_id,
        params_id=statement.params_id,
        chunks=statement.chunks,
        sealed_note=statement.sealed_note,
    ).SerializeToString(deterministic=True)


def parse_signed_ready(data: bytes) -> SignedReady:
    """Reads a stored or received `SignedReady`; its body is checked by `parse_ready`.

    Raises:
        RemoteProtocolError: not a `SignedReady`, or signature or certificate are out of size.
    """
    message = SignedReady()
    _parse(message, data, "signed READY", MAX_READY_BYTES)
    check_signed_ready(message)
    return message


def check_signed_ready(message: SignedReady) -> ReadyStatement:
    """Checks sizes of a `SignedReady` and reads its body; the signature is for the caller to verify.

    Raises:
        RemoteProtocolError: something is out of size or range.
    """
    _range("size of the signature in bytes", len(message.signature), 1, MAX_SIGNATURE_BYTES)
    _range("size of the certificate in bytes", len(message.certificate), 1, MAX_CERTIFICATE_BYTES)
    return parse_ready(message.body)


def check_sealed_roster(roster: SealedRoster) -> tuple[ReadyStatement, ...]:
    """Checks count, sizes and order of a `SealedRoster`; signatures and context are for the caller to verify.

    Raises:
        RemoteProtocolError: too many or too few entries, not sorted by site, or a READY of another job or round.
    """
    _range("sites of a sealed roster", len(roster.ready), 2, MAX_SITES)
    statements = tuple(check_signed_ready(ready) for ready in roster.ready)
    names = [statement.site.encode() for statement in statements]
    if names != sorted(set(names)):
        raise RemoteProtocolError("sealed roster: expected each site once, sorted by name")
    for statement in statements:
        expected = (roster.job_id, roster.round, roster.attempt)
        actual = (statement.job_id, statement.round, statement.attempt)
        if actual != expected:
            raise RemoteProtocolError(
                f"sealed roster: READY of {statement.site}: expected job, round, attempt {expected}, got {actual}"
            )
    return statements


def write_signed_job(job: SignedJob) -> bytes:
    """The object JOB as sites download it."""
    message = SubmitJobRequest(archive=job.archive, signature=job.signature, certificate=job.certificate)
    return message.SerializeToString(deterministic=True)


def job_pieces(request: SubmitJobRequest) -> Iterator[SubmitJobRequest]:
    """A submission in the pieces in which it is sent."""
    archive, first = request.archive, SubmitJobRequest()
    first.CopyFrom(request)
    first.archive = archive[: MAX_CHUNK_BYTES - MAX_SMALL_MESSAGE_BYTES]
    yield first
    for begin in range(len(first.archive), len(archive), MAX_CHUNK_BYTES):
        yield SubmitJobRequest(archive=archive[begin : begin + MAX_CHUNK_BYTES])


async def join_job(pieces: AsyncIterable[SubmitJobRequest]) -> SubmitJobRequest:
    """What `job_pieces` took apart; the pieces may be anybody's.

    Raises:
        RemoteProtocolError: more bytes than a job may have, or no pieces.
    """
    joined: SubmitJobRequest | None = None
    archive, size = [], 0
    async for piece in pieces:
        if joined is None:
            joined = piece
        archive.append(piece.archive)
        size += piece.ByteSize()
        if size > MAX_JOB_MESSAGE_BYTES:
            raise RemoteProtocolError(f"job: expected at most {MAX_JOB_MESSAGE_BYTES} bytes, got more")
    if joined is None:
        raise RemoteProtocolError("job: expected at least one piece, got none")
    joined.archive = b"".join(archive)
    return joined


def parse_signed_job(data: bytes) -> SignedJob:
    """Reads the object JOB; signature and archive are for the caller to verify.

    Raises:
        RemoteProtocolError: not such an object.
    """
    message = SubmitJobRequest()
    _parse(message, data, "signed job", MAX_JOB_MESSAGE_BYTES)
    return SignedJob(message.archive, message.signature, message.certificate)


def check_job_id(job_id: str) -> str:
    """Returns a job id that is safe as the name of a folder.

    Raises:
        RemoteProtocolError: it is not.
    """
    _text("job id", job_id, _JOB_ID)
    return job_id


def _parse(message: ReadyBody | SignedReady | SubmitJobRequest, data: bytes, what: str, limit: int) -> None:
    if len(data) > limit:
        raise RemoteProtocolError(f"{what}: expected at most {limit} bytes, got {len(data)}")
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise RemoteProtocolError(f"{what}: {len(data)} bytes that are not such a message") from error


def _text(what: str, text: str, pattern: re.Pattern[str]) -> None:
    if not pattern.fullmatch(text):
        raise RemoteProtocolError(f"{what}: expected {pattern.pattern}, got {text[:80]!r}")


def _range(what: str, number: int, least: int, most: int) -> None:
    if not least <= number <= most:
        raise RemoteProtocolError(f"{what}: expected {least} to {most}, got {number}")


def _size(what: str, data: bytes, size: int) -> None:
    if len(data) != size:
        raise RemoteProtocolError(f"{what}: expected {size} bytes, got {len(data)}")
