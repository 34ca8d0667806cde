"""The connection to the server: one channel with mutual TLS, calls that are repeated until they get through.

The agent never gives up on its own. While the server is away, calls wait with full-jitter back-off (at most
`MAX_BACKOFF_SECONDS`), and the state of the connection says what is waited for and when it is tried again.
"""

import asyncio
import contextlib
import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import grpc
import grpc.aio

from fedhe.client.log_book import Level
from fedhe.errors import FedheError
from fedhe.trust.installation import Installation
from fedhe.wire import FederationStub
from fedhe.wire.channel import CHANNEL_OPTIONS
from fedhe.wire.errors import from_status
from fedhe.wire.proxy import proxy_options

CALL_SECONDS = 60.0  # deadline of a small call
CHUNK_SECONDS = 300.0  # deadline of a call that carries a chunk: 1 MiB at 28 kbit/s
FIRST_BACKOFF_SECONDS = 0.5
MAX_BACKOFF_SECONDS = 60.0
RECONNECT_MILLISECONDS = 10_000  # longest pause of the channel itself between two attempts to connect

# Trying again later may help: the server is away, overloaded, out of disk, or met a fault of its own.
TRANSIENT = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)

RequestT_contra = TypeVar("RequestT_contra", contravariant=True)
ReplyT_co = TypeVar("ReplyT_co", covariant=True)
RequestT = TypeVar("RequestT")
ReplyT = TypeVar("ReplyT")


class Method(Protocol[RequestT_contra, ReplyT_co]):
    """One unary method of the stub."""

    def __call__(self, request: RequestT_contra, /, *, timeout: float) -> Awaitable[ReplyT_co]:
        """Sends the request; the answer within `timeout` seconds."""


class ServerRefusedError(FedheError):
    """The server understood the call and refuses it; another instruction, or a person, has to resolve it."""

    exit_code = 6

    def __init__(self, cause: FedheError, code: grpc.StatusCode) -> None:
        super().__init__(cause.message, cause.hint)
        self.exit_code = cause.exit_code  # type: ignore[misc]
        self.code = code


class Listener(Protocol):
    """Who is told how the connection is."""

    def connection_is(self, connection: str, message: str = "", next_try_at: float = 0.0) -> bool:
        """A state of the connection; see `fedhe.client.status.Status`."""


def backoff_seconds(failures: int, rng: random.Random) -> float:
    """Full jitter: anything between nothing and a bound that doubles with each failure, at most 60 seconds."""
    bound = min(MAX_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** min(failures - 1, 20))
    return rng.uniform(0.0, bound)


def open_channel(installation: Installation) -> grpc.aio.Channel:
    """A channel to the project's server, with this participant's certificate and the project's CA and no other.

    Raises:
        ConfigError: the environment names a proxy that cannot be used.
    """
    credentials = grpc.ssl_channel_credentials(
        root_certificates=installation.ca_pem,
        private_key=installation.private_key_pem,
        certificate_chain=installation.certificate_pem,
    )
    options = [
        *CHANNEL_OPTIONS,
        *proxy_options(installation.server_host, os.environ),
        ("grpc.initial_reconnect_backoff_ms", 500),
        ("grpc.max_reconnect_backoff_ms", RECONNECT_MILLISECONDS),
    ]
    return grpc.aio.secure_channel(installation.address, credentials, options=options)


@dataclass
class Session:
    """Calls to the server.

    Attributes:
        stub: the Federation service.
        listener: told whether the server answers.
        log: takes a level and a line when that changes.
        clock: seconds since 1970 UTC.
        rng: for the jitter.
    """

    stub: FederationStub
    listener: Listener
    log: Callable[[Level, str], None]
    clock: Callable[[], float]
    rng: random.Random = field(default_factory=random.SystemRandom)
    _again: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def call(
        self,
        method: Method[RequestT, ReplyT],
        request: RequestT,
        *,
        seconds: float = CALL_SECONDS,
        again: contextlib.AbstractAsyncContextManager[object] | None = None,
    ) -> ReplyT:
        """One call, repeated until the server answers it; inside `again` from the second time on.

        Raises:
            ServerRefusedError: the server answered that it does not do this.
        """
        failures = 0
        while True:
            try:
                async with again if failures and again else contextlib.nullcontext():
                    reply = await self.once(method, request, seconds=seconds)
            except TransientError as error:
                failures += 1
                await self.back_off(failures, error)
            else:
                if self.listener.connection_is("connected"):
                    self.log("info", "the server answers")
                return reply

    async def move(self, method: Method[RequestT, ReplyT], request: RequestT) -> ReplyT:
        """A call that carries a chunk, repeated until the server answers it.

        Those that failed are made one at a time. Chunks under way together share the line: where connections do not
        live long enough for all of them, none would ever arrive whole.

        Raises:
            ServerRefusedError: the server answered that it does not do this.
        """
        return await self.call(method, request, seconds=CHUNK_SECONDS, again=self._again)

    async def once(self, method: Method[RequestT, ReplyT], request: RequestT, *, seconds: float) -> ReplyT:
        """One call, once.

        Raises:
            TransientError: no answer, or the server cannot do it now.
            ServerRefusedError: the server answered that it does not do this.
        """
        try:
            return await method(request, timeout=seconds)
        except grpc.aio.AioRpcError as error:
            told = from_status(error)
            if error.code() in TRANSIENT:
                raise TransientError(_explained(error, told.message), told.hint) from error
            raise ServerRefusedError(told, error.code()) from error

    async def back_off(self, failures: int, error: FedheError) -> None:
        """Says what is waited for, and waits."""
        delay = backoff_seconds(failures, self.rng)
        if self.listener.connection_is("waiting", error.message, self.clock() + delay):
            self.log("warning", f"{error.message}; trying again until the server answers")
        await asyncio.sleep(delay)


class TransientError(FedheError):
    """No answer, or not now; the call can be repeated."""

    exit_code = 5


def _explained(error: grpc.aio.AioRpcError, message: str) -> str:
    details = error.details() or ""
    if error.code() is not grpc.StatusCode.UNAVAILABLE:
        return message
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return (
            "the server's certificate is not of this project's CA, or not for its host name: is the kit the right one?"
        )
    if "SSL_ERROR" in details or "handshake" in details.lower():
        return f"TLS with the server failed; a firewall in between, or this site's certificate is refused ({details})"
    return f"the server cannot be reached ({details})"
