"""Channel options as a real call meets them."""

import asyncio

import grpc
import pytest

from fedhe.wire import FederationServicer, FederationStub, add_FederationServicer_to_server, federation
from fedhe.wire.channel import channel_options, server_options
from fedhe.wire.limits import MAX_CHUNK_BYTES, MAX_REQUEST_BYTES


class Holds(FederationServicer):
    async def GetChunk(self, request, _context):  # noqa: N802 - gRPC names the method
        return federation.Chunk(index=request.index, data=bytes(request.index))

    async def Ready(self, _request, _context):  # noqa: N802 - gRPC names the method
        return federation.Receipt()


def call(work):
    async def run():
        server = grpc.aio.server(options=server_options())
        add_FederationServicer_to_server(Holds(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=channel_options()) as channel:
                return await work(FederationStub(channel), port)
        finally:
            await server.stop(None)

    return asyncio.run(run())


@pytest.mark.parametrize("size", [0, MAX_CHUNK_BYTES, MAX_REQUEST_BYTES - 1024])
def test_messages_larger_than_grpc_allows_by_itself_come_through(size):
    async def work(stub, _port):
        chunk = await stub.GetChunk(federation.GetChunkRequest(index=size), timeout=20)
        await stub.Ready(federation.SignedReady(body=bytes(size)), timeout=20)
        return chunk

    assert len(call(work).data) == size


def test_a_second_server_on_the_port_is_an_error():
    async def work(_stub, port):
        second = grpc.aio.server(options=server_options())
        with pytest.raises(RuntimeError, match="Failed to bind"):
            second.add_insecure_port(f"127.0.0.1:{port}")
        await second.stop(None)

    call(work)


def test_callers_get_lists_of_their_own():
    channel_options().clear()
    server_options().clear()
    assert channel_options()
    assert server_options()
