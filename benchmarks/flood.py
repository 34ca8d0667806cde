"""A flood of bad requests against a server: connections of strangers, and calls of a site that misbehaves."""

import contextlib
import os
import socket
import ssl
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fedhe.trust.installation import Installation
from fedhe.wire import federation
from fedhe.wire.limits import MAX_CHUNK_BYTES, MAX_REQUEST_BYTES

PAUSE_SECONDS = 0.05  # between two of a kind: the flood shall not be limited by this computer's processors
CONNECTIONS_LEFT = 40
STREAMS_LEFT = 40
CALL_SECONDS = 5.0
_METHOD = "/fedhe.v1.Federation/"


class Flood:
    """Runs until its `with` block is left.

    Args:
        rogue: the kit of a site of the project whose computer somebody else has; it has no part in the job.
    """

    def __init__(self, rogue: Installation) -> None:
        self._rogue = rogue
        self._address = (rogue.server_host, rogue.server_port)
        self._ended = threading.Event()
        self._folder = tempfile.TemporaryDirectory(prefix="fedhe-flood-")
        self.counts: Counter[str] = Counter()
        """How often each kind was tried."""
        kinds = (
            self._left_connections, self._left_handshakes, self._no_certificate, self._foreign_certificate,
            self._other_protocols, self._slow_streams, self._oversized, self._malformed, self._unfinished,
        )  # fmt: skip
        self._threads = [threading.Thread(target=self._again_and_again, args=(kind,), daemon=True) for kind in kinds]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        self._folder.cleanup()

    def _again_and_again(self, kind: Callable[[], None]) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(OSError, grpc.RpcError):  # refused, as it must be
                kind()
            self.counts[kind.__name__.removeprefix("_")] += 1
            self._ended.wait(PAUSE_SECONDS)

    # ---- strangers ----

    def _left_connections(self) -> None:
        with contextlib.ExitStack() as stack:
            for _ in range(CONNECTIONS_LEFT):
                stack.enter_context(socket.create_connection(self._address, timeout=CALL_SECONDS))
            self._ended.wait(CALL_SECONDS)

    def _left_handshakes(self) -> None:
        hello = ssl.MemoryBIO()
        with contextlib.suppress(ssl.SSLWantReadError):
            self._context().wrap_bio(ssl.MemoryBIO(), hello, server_hostname=self._address[0]).do_handshake()
        half = hello.read()[:100]
        with contextlib.ExitStack() as stack:
            for _ in range(CONNECTIONS_LEFT):
                connection = stack.enter_context(socket.create_connection(self._address, timeout=CALL_SECONDS))
                connection.sendall(half)
            self._ended.wait(CALL_SECONDS)

    def _no_certificate(self) -> None:
        self._shake_hands(self._context())

    def _foreign_certificate(self) -> None:
        path = Path(self._folder.name) / "foreign.pem"
        if not path.exists():
            path.write_bytes(_self_signed(self._rogue.name))
        context = self._context()
        context.load_cert_chain(path)
        self._shake_hands(context)

    def _other_protocols(self) -> None:
        for data in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(10_000)):
            with socket.create_connection(self._address, timeout=CALL_SECONDS) as connection:
                connection.sendall(data)
                connection.recv(100)

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self._rogue.ca_pem.decode())
        context.set_alpn_protocols(["h2"])
        return context

    def _shake_hands(self, context: ssl.SSLContext) -> None:
        with (
            socket.create_connection(self._address, timeout=CALL_SECONDS) as connection,
            context.wrap_socket(connection, server_hostname=self._address[0]) as secure,
        ):
            secure.recv(100)

    # ---- a site ----

    def _slow_streams(self) -> None:
        """Calls whose message never comes, or comes in part and no further."""
        with self._channel() as channel:
            never = channel.stream_unary(f"{_METHOD}PutChunk")
            calls = [never.future(self._nothing(), timeout=4 * CALL_SECONDS) for _ in range(STREAMS_LEFT)]
            self._ended.wait(2 * CALL_SECONDS)
            for call in calls:
                call.cancel()

    def _nothing(self) -> Iterator[bytes]:
        self._ended.wait(2 * CALL_SECONDS)
        yield from ()

    def _oversized(self) -> None:
        with self._channel() as channel:
            for method, size in (("Join", MAX_REQUEST_BYTES), ("PutChunk", 4 * MAX_REQUEST_BYTES), ("Poll", 2 << 20)):
                with contextlib.suppress(grpc.RpcError):
                    channel.unary_unary(f"{_METHOD}{method}")(bytes(size), timeout=CALL_SECONDS)
            with contextlib.suppress(grpc.RpcError):
                call = channel.unary_unary("/fedhe.v1.Admin/SubmitJob")
                call(bytes(MAX_REQUEST_BYTES), timeout=CALL_SECONDS, metadata=(("x", "y" * 7000),))

    def _malformed(self) -> None:
        with self._channel() as channel:
            for method in ("Join", "Poll", "Ready", "PutChunk", "GetChunk", "Applied", "Report", "NoSuch"):
                with contextlib.suppress(grpc.RpcError):
                    channel.unary_unary(f"{_METHOD}{method}")(os.urandom(500), timeout=CALL_SECONDS)

    def _unfinished(self) -> None:
        """Chunks that nobody asked for, cut while they are sent."""
        ref = federation.ObjectRef(job_id="job", kind=federation.OBJECT_KIND_UPDATE, number=1, attempt=1)
        data = os.urandom(MAX_CHUNK_BYTES - 1024)
        request = federation.PutChunkRequest(object=ref, chunk=federation.Chunk(data=data)).SerializeToString()
        with self._channel() as channel:
            put = channel.unary_unary(f"{_METHOD}PutChunk")
            calls = [put.future(request, timeout=CALL_SECONDS) for _ in range(8)]
            time.sleep(PAUSE_SECONDS)
            for call in calls[::2]:
                call.cancel()
            for call in calls[1::2]:
                call.exception()

    def _channel(self) -> grpc.Channel:
        rogue = self._rogue
        credentials = grpc.ssl_channel_credentials(rogue.ca_pem, rogue.private_key_pem, rogue.certificate_pem)
        options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        return grpc.secure_channel(rogue.address, credentials, options=options)


def _self_signed(name: str) -> bytes:
    """Key and certificate, PEM, of a name that nobody vouches for."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return private + certificate.public_bytes(pem)
