"""Objects that move in numbered chunks, out and in; an interrupted transfer goes on at the missing chunks."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable

from fedhe.client.session import CHUNK_SECONDS, Session
from fedhe.client.spool import Spool
from fedhe.errors import RemoteProtocolError, StateError
from fedhe.wire import federation
from fedhe.wire.chunking import bitmap_indices, check_chunk, digest_of_digests

WINDOW = 4  # chunks under way at a time
MAX_FETCHES = 3  # of one chunk that arrives damaged


class LostError(StateError):
    """The site no longer has chunks that the server has: the upload cannot be completed with the same content."""


async def send_chunks(
    session: Session,
    ref: federation.ObjectRef,
    count: int,
    spool: Spool,
    *,
    make: Callable[[int], Awaitable[bytes]],
    told: Callable[[float], None],
) -> bytes:
    """Sends an object's `count` chunks, those that the server lacks; `finish_upload` then declares it complete.

    Args:
        session: the connection.
        ref: the object.
        count: number of chunks.
        spool: where chunks are kept from before they leave until the object's owner clears it.
        make: gives the content of a chunk that the spool does not hold.
        told: called with the fraction that is done.

    Returns:
        SHA-256 over the chunks' SHA-256 digests, 32 bytes.

    Raises:
        LostError: the server has a chunk that the spool lost.
        ServerRefusedError: the server does not take the object.
    """
    status = await session.call(session.stub.UploadStatus, ref)
    received = set(bitmap_indices(status.received, count))
    digests: dict[int, bytes] = {}
    slots = asyncio.Semaphore(WINDOW)

    async def send(index: int) -> None:
        async with slots:
            data = await asyncio.to_thread(spool.get, index)
            if data is None and (index in received or status.finished):
                raise LostError(f"chunk {index} of {count} was sent before, and is no longer on this site's disk")
            if data is None:
                data = await make(index)
                digests[index] = await asyncio.to_thread(spool.put, index, data)
            else:
                digests[index] = hashlib.sha256(data).digest()
            if index not in received and not status.finished:
                chunk = federation.Chunk(index=index, data=data, digest=digests[index])
                request = federation.PutChunkRequest(object=ref, chunk=chunk)
                await session.call(session.stub.PutChunk, request, seconds=CHUNK_SECONDS)
            received.add(index)
            told(len(received) / count)

    await _for_each(range(count), send)
    told(1.0)
    return digest_of_digests([digests[index] for index in range(count)])


async def finish_upload(session: Session, ref: federation.ObjectRef, count: int, digest: bytes) -> None:
    """Declares an object complete; `digest` is what `send_chunks` returned.

    Raises:
        ServerRefusedError: chunks are missing, or the server does not take the object.
    """
    request = federation.FinishUploadRequest(object=ref, chunks=count, digest=digest)
    await session.call(session.stub.FinishUpload, request)


async def download(
    session: Session,
    ref: federation.ObjectRef,
    spool: Spool,
    *,
    max_chunks: int,
    told: Callable[[float], None],
    exactly: int | None = None,
    take: Callable[[int, bytes], Awaitable[None]] | None = None,
) -> tuple[int, bytes]:
    """Fetches the chunks of an object that the spool lacks, and checks the whole.

    Args:
        session: the connection.
        ref: the object.
        spool: receives the chunks.
        max_chunks: more than this are refused before anything is fetched.
        told: called with the fraction that is done.
        exactly: the number of chunks that it must have, if that is known.
        take: given each chunk as it comes, in any order; what it makes of them counts only if this returns.

    Returns:
        Number of chunks, and SHA-256 over the chunks' SHA-256 digests.

    Raises:
        RemoteProtocolError: too many or too large chunks, or content that does not match its digests.
        ServerRefusedError: the server does not hand it out.
    """
    info = await session.call(session.stub.DescribeObject, ref)
    if exactly is not None and info.chunks != exactly:
        raise RemoteProtocolError(f"{_named(ref)}: expected {exactly} chunks, the server has {info.chunks}")
    if not 1 <= info.chunks <= max_chunks:
        raise RemoteProtocolError(f"{_named(ref)}: expected 1 to {max_chunks} chunks, the server has {info.chunks}")
    digests: dict[int, bytes] = {}
    slots = asyncio.Semaphore(WINDOW)

    async def fetch(index: int) -> None:
        async with slots:
            data = await asyncio.to_thread(spool.get, index)
            if data is None:
                data = await _fetch(session, ref, index)
                digests[index] = await asyncio.to_thread(spool.put, index, data)
            else:
                digests[index] = hashlib.sha256(data).digest()
            if take is not None:
                await take(index, data)
            told(len(digests) / info.chunks)

    await _for_each(range(info.chunks), fetch)
    actual = digest_of_digests([digests[index] for index in range(info.chunks)])
    if actual != info.digest:
        spool.clear()
        raise RemoteProtocolError(
            f"{_named(ref)}: expected digest {info.digest.hex()[:16]}…, its chunks give {actual.hex()[:16]}…"
        )
    return info.chunks, actual


async def _fetch(session: Session, ref: federation.ObjectRef, index: int) -> bytes:
    fault: RemoteProtocolError | None = None
    for _ in range(MAX_FETCHES):
        request = federation.GetChunkRequest(object=ref, index=index)
        chunk = await session.call(session.stub.GetChunk, request, seconds=CHUNK_SECONDS)
        try:
            check_chunk(chunk.index, chunk.data, chunk.digest)
        except RemoteProtocolError as error:
            fault = error
            continue
        if chunk.index == index:
            return bytes(chunk.data)
        fault = RemoteProtocolError(f"expected chunk {index}, got chunk {chunk.index}")
    raise RemoteProtocolError(f"{_named(ref)}: {fault}") from fault


def _named(ref: federation.ObjectRef) -> str:
    kind = federation.ObjectKind.Name(ref.kind).removeprefix("OBJECT_KIND_").lower()
    return f"{kind} {ref.number}" if ref.number else kind


async def _for_each(indices: range, work: Callable[[int], Awaitable[None]]) -> None:
    """Does the work for all chunks at once; the first error ends it and is raised.

    A cancellation goes before any error. A task group does otherwise (CPython 3.11): cancelled while one of its tasks
    fails, it raises the failure, which the caller takes for something to be tried again, and nothing ends.
    """
    tasks = [asyncio.ensure_future(work(index)) for index in indices]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
