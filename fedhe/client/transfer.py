"""Objects that move in numbered chunks, out and in; an interrupted transfer goes on at the missing chunks."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol, TypeVar

from fedhe.client.session import Session
from fedhe.client.spool import Spool
from fedhe.errors import RemoteProtocolError, StateError
from fedhe.wire import federation
from fedhe.wire.chunking import bitmap_indices, check_chunk, digest_of_digests

WINDOW = 4  # chunks under way at a time
MAX_FETCHES = 3  # of one chunk that arrives damaged

ResultT = TypeVar("ResultT")


class Runner(Protocol):
    """Runs work beside the event loop, such as `asyncio.to_thread`; one hop for all that a chunk needs."""

    def __call__(self, work: Callable[[], ResultT], /) -> Awaitable[ResultT]:
        """The result of `work()`."""


class LostError(StateError):
    """The site no longer has chunks that the server has: the upload cannot be completed with the same content."""


async def send_chunks(
    session: Session,
    ref: federation.ObjectRef,
    count: int,
    spool: Spool,
    *,
    make: Callable[[int], bytes],
    run: Runner,
    told: Callable[[float], None],
) -> bytes:
    """Sends an object's `count` chunks, those that the server lacks; `finish_upload` then declares it complete.

    Args:
        session: the connection.
        ref: the object.
        count: number of chunks.
        spool: where chunks are kept from before they leave until the object's owner clears it.
        make: gives the content of a chunk that the spool does not hold.
        run: where chunks are made and kept.
        told: called with the fraction that is done.

    Returns:
        SHA-256 over the chunks' SHA-256 digests, 32 bytes.

    Raises:
        LostError: the server has a chunk that the spool lost.
        ServerRefusedError: the server does not take the object.
    """
    status = await session.call(session.stub.UploadStatus, ref)
    received = set(bitmap_indices(status.received, count))
    held = await asyncio.to_thread(spool.held)
    digests: dict[int, bytes] = {}
    slots = asyncio.Semaphore(WINDOW)

    async def send(index: int) -> None:
        async with slots:
            kept = await asyncio.to_thread(spool.get, index) if index in held else None
            if kept is None and (index in received or status.finished):
                raise LostError(f"chunk {index} of {count} was sent before, and is no longer on this site's disk")
            if kept is None:
                data, digests[index] = await run(partial(_made, spool, index, make))
            else:
                data, digests[index] = kept, hashlib.sha256(kept).digest()
            if index not in received and not status.finished:
                chunk = federation.Chunk(index=index, data=data, digest=digests[index])
                request = federation.PutChunkRequest(object=ref, chunk=chunk)
                await session.move(session.stub.PutChunk, request)
            received.add(index)
            told(len(received) / count)

    await _for_each(range(count), send)
    told(1.0)
    return digest_of_digests([digests[index] for index in range(count)])


def _made(spool: Spool, index: int, make: Callable[[int], bytes]) -> tuple[bytes, bytes]:
    data = make(index)
    return data, spool.put(index, data)


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
    take: Callable[[int, bytes], None] | None = None,
    run: Runner = asyncio.to_thread,
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
        run: where chunks are checked, kept and taken.

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
    held = await asyncio.to_thread(spool.held)
    digests: dict[int, bytes] = {}
    slots = asyncio.Semaphore(WINDOW)

    def kept(index: int) -> bytes | None:
        data = spool.get(index)
        if data is not None and take is not None:
            take(index, data)
        return None if data is None else hashlib.sha256(data).digest()

    def came(index: int, chunk: federation.Chunk) -> bytes:
        _check(index, chunk)
        spool.put(index, chunk.data, chunk.digest)
        if take is not None:
            take(index, chunk.data)
        return chunk.digest

    async def fetch(index: int) -> None:
        async with slots:
            digest = await run(partial(kept, index)) if index in held else None
            digests[index] = digest or await _fetch(session, ref, index, lambda chunk: run(partial(came, index, chunk)))
            told(len(digests) / info.chunks)

    await _for_each(range(info.chunks), fetch)
    actual = digest_of_digests([digests[index] for index in range(info.chunks)])
    if actual != info.digest:
        spool.clear()
        raise RemoteProtocolError(
            f"{_named(ref)}: expected digest {info.digest.hex()[:16]}…, its chunks give {actual.hex()[:16]}…"
        )
    return info.chunks, actual


class _DamagedError(RemoteProtocolError):
    """A chunk came that is not what it must be; another try may bring it whole."""


async def _fetch(
    session: Session, ref: federation.ObjectRef, index: int, came: Callable[[federation.Chunk], Awaitable[bytes]]
) -> bytes:
    fault: _DamagedError | None = None
    for _ in range(MAX_FETCHES):
        request = federation.GetChunkRequest(object=ref, index=index)
        chunk = await session.move(session.stub.GetChunk, request)
        try:
            return await came(chunk)
        except _DamagedError as error:
            fault = error
    raise RemoteProtocolError(f"{_named(ref)}: {fault}") from fault


def _check(index: int, chunk: federation.Chunk) -> None:
    try:
        check_chunk(chunk.index, chunk.data, chunk.digest)
    except RemoteProtocolError as error:
        raise _DamagedError(error.message) from error
    if chunk.index != index:
        raise _DamagedError(f"expected chunk {index}, got chunk {chunk.index}")


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
