"""Where connections are cut before all chunks under way can arrive, chunks are tried again one at a time."""

import asyncio
import random

import grpc
import grpc.aio
import pytest

from fedhe.client.session import Session
from fedhe.client.spool import Spool
from fedhe.client.transfer import send_chunks
from fedhe.wire import federation

CHUNKS = 9


class Line:
    """A server behind a line that is cut whenever two chunks are under way; stands in for the stub."""

    def __init__(self):
        self.stored, self.under_way, self.cuts, self._cut = {}, 0, 0, asyncio.Event()

    async def UploadStatus(self, _ref, *, timeout):  # noqa: N802, ASYNC109 - as in gRPC
        assert timeout > 0
        return federation.UploadStatusReply()

    async def PutChunk(self, request, *, timeout):  # noqa: N802, ASYNC109 - as in gRPC
        assert timeout > 0
        self.under_way += 1
        try:
            if self.under_way > 1:
                self.cuts += 1
                self._cut.set()
                self._cut = asyncio.Event()
                raise unavailable()
            cut = asyncio.ensure_future(self._cut.wait())
            done, _ = await asyncio.wait({cut}, timeout=0.02)
            cut.cancel()
            if done:
                raise unavailable()
            self.stored[request.chunk.index] = request.chunk.data
        finally:
            self.under_way -= 1
        return federation.Receipt()


def unavailable():
    nothing = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, nothing, nothing, details="Connection reset by peer")


class NoListener:
    def connection_is(self, connection, message="", next_try_at=0.0):
        del connection, message, next_try_at
        return False


class NoPause(random.Random):
    """Full jitter at its worst: everybody tries again at once."""

    def uniform(self, _low, _high):
        return 0.0


@pytest.mark.timeout(30)
async def test_all_chunks_arrive_although_no_two_get_through_together(tmp_path):
    line = Line()
    session = Session(line, NoListener(), lambda *_: None, lambda: 0.0, NoPause())
    digest = await send_chunks(
        session, federation.ObjectRef(), CHUNKS, Spool(tmp_path / "spool"),
        make=lambda index: bytes([index]) * 100, run=asyncio.to_thread, told=lambda _: None,
    )  # fmt: skip
    assert line.stored == {index: bytes([index]) * 100 for index in range(CHUNKS)}
    assert line.cuts > 0
    assert len(digest) == 32
