"""Errors across a real gRPC connection: the class, the message and the hint come out as they went in."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from fedhe import errors
from fedhe.wire import FederationServicer, FederationStub, add_FederationServicer_to_server, federation
from fedhe.wire.channel import channel_options, server_options
from fedhe.wire.errors import abort_arguments, from_status

KINDS = [
    errors.NotFoundError,
    errors.StateError,
    errors.TrustError,
    errors.RemoteProtocolError,
    errors.ResourceError,
    errors.UnavailableError,
    errors.PolicyError,
]


class Refusing(FederationServicer):
    """Ends each call with the error it was given."""

    def __init__(self):
        self.error = None

    def refuse(self, _request, context):
        code, message, metadata = abort_arguments(self.error)
        context.set_trailing_metadata(metadata)
        context.abort(code, message)

    Join = refuse


@pytest.fixture(scope="module")
def server():
    servicer = Refusing()
    server = grpc.server(ThreadPoolExecutor(1), options=server_options())
    add_FederationServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, f"127.0.0.1:{port}"
    server.stop(None).wait()


def call(server, error):
    servicer, address = server
    servicer.error = error
    with grpc.insecure_channel(address, options=channel_options()) as channel, pytest.raises(grpc.RpcError) as caught:
        FederationStub(channel).Join(federation.JoinRequest())
    return from_status(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_comes_out_as_it_went_in(server, kind):
    got = call(server, kind("expected 3, got 5", "größer ist nicht besser"))
    assert type(got) is kind
    assert (got.message, got.hint) == ("expected 3, got 5", "größer ist nicht besser")


def test_an_error_without_a_hint_has_none(server):
    assert call(server, errors.StateError("no")).hint is None


def test_an_asynchronous_call_fails_alike(server):
    servicer, address = server
    servicer.error = errors.StateError("out of phase", "poll again")

    async def join():
        async with grpc.aio.insecure_channel(address, options=channel_options()) as channel:
            await FederationStub(channel).Join(federation.JoinRequest())

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        asyncio.run(join())
    got = from_status(caught.value)
    assert (type(got), got.message, got.hint) == (errors.StateError, "out of phase", "poll again")


def test_a_server_that_is_not_there_is_unavailable():
    with grpc.insecure_channel("127.0.0.1:1") as channel, pytest.raises(grpc.RpcError) as caught:
        FederationStub(channel).Join(federation.JoinRequest(), timeout=20)
    assert isinstance(from_status(caught.value), errors.UnavailableError)


def test_a_method_that_the_other_side_does_not_have_is_told(server):
    with grpc.insecure_channel(server[1]) as channel, pytest.raises(grpc.RpcError) as caught:
        FederationStub(channel).Poll(federation.PollRequest())
    got = from_status(caught.value)
    assert type(got) is errors.FedheError
    assert "UNIMPLEMENTED" in got.message


def test_a_second_server_on_a_port_is_an_error(server):
    second = grpc.server(ThreadPoolExecutor(1), options=server_options())
    with pytest.raises(RuntimeError):
        second.add_insecure_port(server[1])


def test_what_the_other_side_writes_is_cut_and_made_printable():
    class Hostile:
        def code(self):
            return grpc.StatusCode.FAILED_PRECONDITION

        def details(self):
            return "\x1b[31mred\nline" + "x" * 10_000

        def trailing_metadata(self):
            return (("fedhe-hint-bin", b"\xff\x00hint"), ("other", "x"))

    got = from_status(Hostile())
    assert got.message.isprintable()
    assert len(got.message) <= 4000
    assert got.hint.endswith("hint")
    assert got.hint.isprintable()


def test_every_error_has_a_status_of_its_own_or_of_its_base():
    assert abort_arguments(errors.CapacityError("x"))[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert abort_arguments(errors.TrainingError("x"))[0] is grpc.StatusCode.ABORTED
    assert abort_arguments(errors.FedheError("x")) == (grpc.StatusCode.UNKNOWN, "x", ())
