"""Options of gRPC channels and servers: message sizes, and keep-alive that hospital firewalls tolerate."""

from typing import Final

from fedhe.wire.limits import MAX_REPLY_BYTES, MAX_REQUEST_BYTES

Option = tuple[str, int | str]

KEEPALIVE_MILLISECONDS: Final = 60_000
"""A ping each minute keeps a NAT's entry alive. gRPC servers take more than one in five minutes for abuse unless told
otherwise, as ours is below."""

KEEPALIVE_TIMEOUT_MILLISECONDS: Final = 20_000

HANDSHAKE_MILLISECONDS: Final = 20_000
"""Who has not shown his certificate by then is let go: a connection costs a descriptor and some kilobytes."""

IDLE_MILLISECONDS: Final = 600_000
"""A connection without any call is closed then; sites poll all the time."""

MAX_STREAMS: Final = 100
"""Calls of one connection that a server takes notice of; the gate allows a participant fewer."""

CHANNEL_OPTIONS: Final[tuple[Option, ...]] = (
    ("grpc.max_send_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_receive_message_length", MAX_REPLY_BYTES),
    ("grpc.keepalive_time_ms", KEEPALIVE_MILLISECONDS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MILLISECONDS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)

SERVER_OPTIONS: Final[tuple[Option, ...]] = (
    # the per-method limits are smaller and enforced by the service
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_send_message_length", MAX_REPLY_BYTES),
    ("grpc.keepalive_time_ms", KEEPALIVE_MILLISECONDS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MILLISECONDS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_MILLISECONDS // 2),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_MILLISECONDS),
    ("grpc.max_connection_idle_ms", IDLE_MILLISECONDS),
    ("grpc.max_concurrent_streams", MAX_STREAMS),
    ("grpc.so_reuseport", 0),  # a second server on the port is an error, not a surprise
)


def channel_options() -> list[Option]:
    """A fresh list of the options of a client's channel."""
    return list(CHANNEL_OPTIONS)


def server_options() -> list[Option]:
    """A fresh list of the options of a server."""
    return list(SERVER_OPTIONS)
