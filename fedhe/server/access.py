"""Who may call what. Every call passes here: certificate, validity, roster, role, number of calls, turn, size.

A method that is not in the table is refused. Who calls is told by the TLS certificate alone.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from fedhe.errors import FedheError, RemoteProtocolError, ResourceError, TrustError
from fedhe.server.audit import Audit
from fedhe.server.roster_file import RosterFile
from fedhe.server.server_log import ServerLog
from fedhe.server.turns import Turns
from fedhe.trust.certificates import ADMIN_LEAD, ADMIN_OBSERVER, ROLES, SITE, Identity, verify_certificate
from fedhe.wire import limits
from fedhe.wire.errors import abort_arguments

MAX_CALLS_AT_ONCE = 64
"""Calls that one participant may have under way; a site that behaves needs about ten."""

MAX_POLL_BYTES = limits.MAX_JOBS_PER_POLL * 4096
"""Largest Poll, bytes; smaller than other texts, because an empty entry of two bytes takes about 90 when parsed."""

RECEIVE_SECONDS = 300.0
"""How long a message may take to come in: 1 MiB at 28 kbit/s, as long as a site waits for its answer."""

MAX_KNOWN_CERTIFICATES = 4096
"""Checked certificates that are remembered, so that not every call verifies a signature again."""

EVERYBODY = frozenset(ROLES)
SITES = frozenset({SITE})
ADMINS = frozenset({ADMIN_LEAD, ADMIN_OBSERVER})
LEADS = frozenset({ADMIN_LEAD})


@dataclass(frozen=True)
class Rule:
    """Who may call a method, and how large a request may be.

    Args:
        roles: roles of certificates.
        max_bytes: largest request in bytes; where it comes in pieces, largest piece.
        waits: whether it is answered when something happens, and gives its turn back until then.
    """

    roles: frozenset[str]
    max_bytes: int = limits.MAX_SMALL_MESSAGE_BYTES
    waits: bool = False


_FEDERATION = "/fedhe.v1.Federation/"
_ADMIN = "/fedhe.v1.Admin/"
_HEALTH = "/grpc.health.v1.Health/"

_UPDATE_ROSTER = f"{_ADMIN}UpdateRoster"

RULES: Mapping[str, Rule] = {
    f"{_FEDERATION}Join": Rule(SITES),
    f"{_FEDERATION}Poll": Rule(SITES, MAX_POLL_BYTES, waits=True),
    f"{_FEDERATION}Ready": Rule(SITES, limits.MAX_READY_BYTES),
    f"{_FEDERATION}UploadStatus": Rule(SITES),
    f"{_FEDERATION}PutChunk": Rule(SITES, limits.MAX_MESSAGE_BYTES),
    f"{_FEDERATION}FinishUpload": Rule(SITES),
    f"{_FEDERATION}DescribeObject": Rule(SITES),
    f"{_FEDERATION}GetChunk": Rule(SITES),
    f"{_FEDERATION}Applied": Rule(SITES, limits.MAX_NOTE_BYTES + limits.MAX_SMALL_MESSAGE_BYTES),
    f"{_FEDERATION}Report": Rule(SITES, limits.MAX_REQUEST_BYTES),
    f"{_FEDERATION}PushLog": Rule(SITES, limits.MAX_REQUEST_BYTES),
    f"{_ADMIN}GetStatus": Rule(ADMINS),
    f"{_ADMIN}ListSites": Rule(ADMINS),
    f"{_ADMIN}SetSite": Rule(LEADS),
    _UPDATE_ROSTER: Rule(LEADS, limits.MAX_ROSTER_BYTES + limits.MAX_SMALL_MESSAGE_BYTES),
    f"{_ADMIN}SubmitJob": Rule(LEADS, limits.MAX_MESSAGE_BYTES),
    f"{_ADMIN}ListJobs": Rule(ADMINS),
    f"{_ADMIN}ShowJob": Rule(ADMINS),
    f"{_ADMIN}StartJob": Rule(LEADS),
    f"{_ADMIN}AbortJob": Rule(LEADS),
    f"{_ADMIN}PauseJob": Rule(LEADS),
    f"{_ADMIN}ResumeJob": Rule(LEADS),
    f"{_ADMIN}ChangeJob": Rule(LEADS),
    f"{_ADMIN}DeleteJob": Rule(LEADS),
    f"{_ADMIN}ListRounds": Rule(ADMINS),
    f"{_ADMIN}WatchJob": Rule(ADMINS, waits=True),
    f"{_ADMIN}ReadLog": Rule(ADMINS, waits=True),
    f"{_ADMIN}DescribeObject": Rule(ADMINS),
    f"{_ADMIN}GetChunk": Rule(ADMINS),
    f"{_ADMIN}SetDrain": Rule(LEADS),
    f"{_ADMIN}Shutdown": Rule(LEADS),
    f"{_HEALTH}Check": Rule(EVERYBODY),
    f"{_HEALTH}Watch": Rule(EVERYBODY, waits=True),
}

NOBODY = Rule(frozenset(), max_bytes=0)
"""For a method that is not in the table."""


@dataclass(frozen=True)
class Unparsed:
    """Stands for a request that is no message, or is too large: parsed, it could take forty times as much memory.

    Args:
        size: bytes that came.
    """

    size: int


_caller: ContextVar[Identity] = ContextVar("caller")


def caller() -> Identity:
    """Whose call is being answered."""
    return _caller.get()


class Gate(aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the type stubs only
    """Stands before every method of the server.

    Args:
        ca_pem: the project's CA.
        roster: the roster in force; looked at anew for every call.
        audit: where refusals are noted.
        log: the server's log.
        clock: seconds since 1970 UTC.
    """

    def __init__(
        self, ca_pem: bytes, roster: RosterFile, audit: Audit, log: ServerLog, clock: Callable[[], float]
    ) -> None:
        self._ca_pem = ca_pem
        self._roster = roster
        self._audit = audit
        self._log = log
        self._clock = clock
        self._verified: OrderedDict[bytes, Identity] = OrderedDict()
        self._calls: Counter[str] = Counter()
        self.turns = Turns()
        """Whose message may come in now."""

    async def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        """Wraps the method's handler; see the class."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None:
            return handler
        parse = _bounded(handler.request_deserializer, RULES.get(method, NOBODY).max_bytes)
        # All are taken for streams of requests: those are called before a message has come in. On the wire a call with
        # one request is the same.
        if handler.unary_stream is not None:
            stream = self._stream(method, handler.unary_stream)
            return grpc.stream_stream_rpc_method_handler(stream, parse, handler.response_serializer)
        if handler.unary_unary is None and handler.stream_unary is None:
            raise AssertionError(f"{method}: no streams both ways in this protocol")
        behaviour = self._unary(method, handler.unary_unary, handler.stream_unary)
        return grpc.stream_unary_rpc_method_handler(behaviour, parse, handler.response_serializer)

    def identify(self, certificate: bytes, brought: bytes = b"") -> Identity:
        """Checks a participant's certificate, PEM or DER, and its place on the roster, as of now.

        Args:
            certificate: the participant's.
            brought: a newer signed roster that may list it instead; empty if there is none.

        Raises:
            TrustError: foreign, expired, revoked or not listed.
        """
        now = self._clock()
        identity = self._verified.get(certificate)
        if identity is None or now >= identity.not_after:
            identity = verify_certificate(certificate, self._ca_pem, now)
            self._verified[certificate] = identity
            if len(self._verified) > MAX_KNOWN_CERTIFICATES:
                self._verified.popitem(last=False)
        try:
            self._roster.current.check(identity, now)
        except TrustError:
            if not brought:
                raise
            self._roster.preview(brought).check(identity, now)
        return identity

    def _unary(self, method: str, behaviour: Any, of_pieces: Any) -> Any:
        async def call(pieces: AsyncIterator[Any], context: "aio.ServicerContext[Any, Any]") -> Any:
            try:
                if of_pieces is not None:
                    with self._admitted(method, b"", context) as who:
                        await self.turns.take(who)
                        return await of_pieces(_in_time(method, pieces), context)
                async with self._received(method, pieces, context) as request:
                    return await behaviour(request, context)
            except Exception as error:  # noqa: BLE001 -- the border where errors become statuses
                await self._refuse(method, context, error)

        return call

    def _stream(self, method: str, behaviour: Any) -> Any:
        async def call(pieces: AsyncIterator[Any], context: "aio.ServicerContext[Any, Any]") -> AsyncIterator[Any]:
            try:
                async with self._received(method, pieces, context) as request:
                    async for reply in behaviour(request, context):
                        # A revocation ends a stream that is under way too.
                        self.identify(_certificate(context))
                        yield reply
            except Exception as error:  # noqa: BLE001 -- the border where errors become statuses
                await self._refuse(method, context, error)

        return call

    @asynccontextmanager
    async def _received(
        self, method: str, pieces: AsyncIterator[Any], context: "aio.ServicerContext[Any, Any]"
    ) -> AsyncIterator[Any]:
        """Admits a call, and only then receives its request."""
        if method == _UPDATE_ROSTER:
            # A lead whose certificate was renewed is on the roster that he brings, and not yet on the one in force.
            await self.turns.take(_claimed_name(context))
            request = await anext(_in_time(method, pieces))
            with self._admitted(method, request.roster, context):
                yield request
            return
        with self._admitted(method, b"", context) as who:
            turn = await self.turns.take(who)
            request = await anext(_in_time(method, pieces))
            if RULES[method].waits:
                turn.release()
            yield request

    @contextmanager
    def _admitted(self, method: str, brought: bytes, context: "aio.ServicerContext[Any, Any]") -> Iterator[str]:
        rule = RULES.get(method, NOBODY)
        self._roster.refresh()
        identity = self.identify(_certificate(context), brought)
        if identity.role not in rule.roles:
            allowed = ", ".join(sorted(rule.roles)) or "nobody"
            raise TrustError(f"{_short(method)} is for {allowed}; {identity.name} is {identity.role}")
        who = f"{identity.role} {identity.name}"
        if self._calls[who] >= MAX_CALLS_AT_ONCE:
            raise ResourceError(f"{who} has {MAX_CALLS_AT_ONCE} calls under way, which is the most", "wait for them")
        self._calls[who] += 1
        # Each call is a task with its own context, so this is never seen by another call.
        _caller.set(identity)
        try:
            yield who
        finally:
            self._calls[who] -= 1
            if not self._calls[who]:
                del self._calls[who]

    async def _refuse(self, method: str, context: "aio.ServicerContext[Any, Any]", error: Exception) -> NoReturn:
        if isinstance(error, aio.AbortError):
            raise error
        who = _claimed_name(context)
        if isinstance(error, FedheError):
            self._log.write("info", f"refused {_short(method)}: {error.message}", caller=who, address=context.peer())
            if isinstance(error, TrustError):
                now = self._clock()
                await asyncio.to_thread(
                    self._audit.note_refusal, now, who, _short(method), error.message, context.peer()
                )
            await context.abort(*abort_arguments(error))
        self._log.write("error", f"bug in {_short(method)}: {type(error).__name__}", caller=who, error=error)
        await context.abort(grpc.StatusCode.INTERNAL, f"bug in the server's {_short(method)}; its log has more")
        raise AssertionError("abort raises")


def _bounded(parse: Callable[[bytes], Any] | None, max_bytes: int) -> Callable[[bytes], Any]:
    """Parses what is small enough; whether the caller may call at all is told first, and needs no request."""
    if parse is None:
        raise AssertionError("all requests of this protocol are protobuf messages")

    def bounded(data: bytes) -> Any:
        if len(data) > max_bytes:
            return Unparsed(len(data))
        try:
            return parse(data)
        except DecodeError:
            return Unparsed(len(data))

    return bounded


async def _in_time(method: str, pieces: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The requests of a call as they come in; at least one.

    Raises:
        RemoteProtocolError: one is no message, or too large; or there is none.
        ResourceError: one did not come within `RECEIVE_SECONDS`.
    """
    came = 0
    while True:
        try:
            async with asyncio.timeout(RECEIVE_SECONDS):
                request = await anext(aiter(pieces), None)
        except TimeoutError as error:
            raise ResourceError(f"{_short(method)}: no whole message came within {RECEIVE_SECONDS:.0f} s") from error
        if isinstance(request, Unparsed):
            most = RULES.get(method, NOBODY).max_bytes
            expected = f"at most {most} bytes" if request.size > most else "a message"
            raise RemoteProtocolError(f"{_short(method)}: expected {expected}, got {request.size} bytes")
        if request is None:
            break
        came += 1
        yield request
    if not came:
        raise RemoteProtocolError(f"{_short(method)}: expected a message, got none")


def _certificate(context: "aio.ServicerContext[Any, Any]") -> bytes:
    found = context.auth_context().get("x509_pem_cert")
    if not found:
        raise TrustError("expected a client certificate, got none", "connect with the certificate from your kit")
    return bytes(next(iter(found)))


def _claimed_name(context: "aio.ServicerContext[Any, Any]") -> str:
    """Name of a caller whom we may not believe; for logs."""
    names = context.auth_context().get("x509_common_name") or [b"?"]
    return bytes(next(iter(names))).decode(errors="replace")[:64]


def _short(method: str) -> str:
    return method.rpartition(".")[2]
