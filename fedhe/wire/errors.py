"""FedheError to gRPC status and back: the one border at which errors cross the wire."""

from typing import Final, Protocol

import grpc

from fedhe.errors import (
    ConfigError,
    FedheError,
    NotFoundError,
    PolicyError,
    RemoteProtocolError,
    ResourceError,
    StateError,
    TrainingError,
    TrustError,
    UnavailableError,
)
from fedhe.wire.limits import MAX_TEXT_CHARACTERS

HINT_KEY: Final = "fedhe-hint-bin"
"""Trailing metadata that carries the hint, UTF-8; a `-bin` key may hold any bytes."""

MAX_STATUS_BYTES: Final = 3000
"""Message or hint as it is sent, bytes: gRPC cuts a call whose headers take more than 8 KiB together."""

# The first entry whose class fits an error, or whose code fits a status, is used: subclasses stand before their bases.
_TABLE: Final[tuple[tuple[type[FedheError], grpc.StatusCode], ...]] = (
    (NotFoundError, grpc.StatusCode.NOT_FOUND),
    (StateError, grpc.StatusCode.FAILED_PRECONDITION),
    (TrustError, grpc.StatusCode.PERMISSION_DENIED),
    (TrustError, grpc.StatusCode.UNAUTHENTICATED),
    (RemoteProtocolError, grpc.StatusCode.INVALID_ARGUMENT),
    (ConfigError, grpc.StatusCode.INVALID_ARGUMENT),
    (ResourceError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (UnavailableError, grpc.StatusCode.UNAVAILABLE),
    (UnavailableError, grpc.StatusCode.DEADLINE_EXCEEDED),
    (UnavailableError, grpc.StatusCode.CANCELLED),
    (PolicyError, grpc.StatusCode.ABORTED),
    (TrainingError, grpc.StatusCode.ABORTED),
)

Metadata = tuple[tuple[str, bytes], ...]


class FailedCall(Protocol):
    """What `grpc.RpcError` and `grpc.aio.AioRpcError` have in common."""

    def code(self) -> grpc.StatusCode:
        """The status."""

    def details(self) -> str | None:
        """The message."""

    def trailing_metadata(self) -> object:
        """Pairs of key and value, or None."""


def abort_arguments(error: FedheError) -> tuple[grpc.StatusCode, str, Metadata]:
    """Status, message and trailing metadata with which a service ends a call that raised `error`."""
    code = next((code for kind, code in _TABLE if isinstance(error, kind)), grpc.StatusCode.UNKNOWN)
    hint = _fitting(error.hint or "").encode()
    return code, _fitting(error.message), ((HINT_KEY, hint),) if hint else ()


def from_status(call: FailedCall) -> FedheError:
    """The error that a failed call means for its caller; what the other side wrote is cut and made printable."""
    message = _printable(call.details() or call.code().name)
    hint = None
    metadata = call.trailing_metadata()
    for key, value in metadata if isinstance(metadata, (tuple, list)) or hasattr(metadata, "__iter__") else ():
        if key == HINT_KEY and isinstance(value, bytes):
            hint = _printable(value.decode(errors="replace"))
    kind = next((kind for kind, code in _TABLE if code is call.code()), None)
    if kind is None:
        return FedheError(f"the other side failed: {call.code().name}: {message}", hint)
    return kind(message, hint)


def _fitting(text: str) -> str:
    """Text as a header can carry it: valid Unicode, which names of files need not be, and not too long."""
    valid = text.encode(errors="replace").decode()
    size = 0
    for position, character in enumerate(valid):
        # gRPC writes a byte that is not printable ASCII as %XX
        size += 1 if " " <= character <= "~" and character != "%" else 3 * len(character.encode())
        if size > MAX_STATUS_BYTES:
            return valid[:position]
    return valid


def _printable(text: str) -> str:
    """One line without control characters: it may go to a terminal or a log."""
    return "".join(character if character.isprintable() else " " for character in text[:MAX_TEXT_CHARACTERS])
