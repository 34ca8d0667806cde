"""Whatever an error says, and with whatever status a call ends, the caller of a real call gets a FedheError."""

import asyncio

import grpc
import pytest

from fedhe import errors
from fedhe.wire import FederationServicer, FederationStub, add_FederationServicer_to_server, federation
from fedhe.wire.channel import channel_options, server_options
from fedhe.wire.errors import MAX_STATUS_BYTES, abort_arguments, from_status

CALL_SECONDS = 20.0
FAILURES = [status for status in grpc.StatusCode if status is not grpc.StatusCode.OK]


class Raises(FederationServicer):
    def __init__(self, abort):
        self._abort = abort

    async def Join(self, _request, context):  # noqa: N802 - gRPC names the method
        await context.abort(*self._abort)


def told(*abort):
    """Status, message and metadata of an abort, sent through a real call; gives the error that the caller makes."""

    async def call():
        server = grpc.aio.server(options=server_options())
        add_FederationServicer_to_server(Raises(abort), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=channel_options()) as channel:
                with pytest.raises(grpc.aio.AioRpcError) as failed:
                    await FederationStub(channel).Join(federation.JoinRequest(), timeout=CALL_SECONDS)
                return from_status(failed.value)
        finally:
            await server.stop(None)

    return asyncio.run(call())


@pytest.mark.parametrize("status", FAILURES, ids=lambda status: status.name)
def test_every_status_is_an_error_with_the_words_that_came(status):
    error = told(status, "told by hand")
    assert isinstance(error, errors.FedheError)
    assert "told by hand" in error.message


@pytest.mark.parametrize("status", ["UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"])
def test_what_may_pass_is_unavailable(status):
    assert type(told(grpc.StatusCode[status], "later")) is errors.UnavailableError


@pytest.mark.parametrize(
    ("kind", "becomes"),
    [
        (errors.ConfigError, errors.RemoteProtocolError),  # the caller sent what is wrong
        (errors.CapacityError, errors.RemoteProtocolError),
        (errors.TrainingError, errors.PolicyError),
        (errors.FedheError, errors.FedheError),
    ],
)
def test_an_error_without_a_status_of_its_own_comes_out_as_a_related_one(kind, becomes):
    error = told(*abort_arguments(kind("what happened", "what to do")))
    assert type(error) is becomes
    assert error.message.endswith("what happened")
    assert error.hint == "what to do"


@pytest.mark.parametrize("character", ["a", "%", "\x00", "é", "日", "\U0001f9e0"])
def test_a_text_of_any_length_and_alphabet_is_cut_and_stays_whole_in_its_characters(character):
    error = told(*abort_arguments(errors.StateError(character * 9000, character * 9000)))
    assert type(error) is errors.StateError
    seen = character if character.isprintable() else " "
    assert set(error.message) == set(error.hint) == {seen}
    assert 0 < len(error.message) <= MAX_STATUS_BYTES


@pytest.mark.parametrize("place", ["message", "hint"])
def test_names_of_files_that_are_not_valid_unicode_come_through(place):
    texts = {"message": "cannot write", "hint": "look there", place: "cannot write m\udcf6del.bin"}
    error = told(*abort_arguments(errors.ResourceError(**texts)))
    assert type(error) is errors.ResourceError
    assert getattr(error, place) == "cannot write m?del.bin"


def test_an_error_without_words_still_says_what_kind_it_is():
    assert told(*abort_arguments(errors.StateError(""))).message == "FAILED_PRECONDITION"
