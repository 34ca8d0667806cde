"""The admin's channel to the server: mutual TLS with the installed kit, and every failure as one FedheError."""

import itertools
import os
import random
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import grpc

from fedhe.cli.admin_format import printable
from fedhe.errors import ConfigError, FedheError, NotFoundError, TrustError, UnavailableError
from fedhe.trust.installation import Installation, load_installation
from fedhe.trust.sealed import GroupKey
from fedhe.trust.site_keys import read_site_keys
from fedhe.wire import AdminStub
from fedhe.wire.channel import CHANNEL_OPTIONS
from fedhe.wire.errors import from_status
from fedhe.wire.proxy import proxy_options

CALL_SECONDS = 30.0  # of a call that moves little
RETRIES = 5  # of a call in a pipeline
FIRST_BACK_OFF_SECONDS = 0.25
MAX_BACK_OFF_SECONDS = 15.0
# gRPC tells a failed handshake in words only; these are of its core and of BoringSSL.
_NAME_SIGNS = ("CERTIFICATE_VERIFY_FAILED", "Hostname Verification", "Peer name")
_CLOSED_SIGNS = ("Socket closed", "Connection reset", "handshake failed", "Broken pipe")
_CHAIN = (
    "CERTIFICATE_VERIFY_FAILED: ",
    "OPENSSL_internal:",
    "UNAUTHENTICATED: ",
    "hostname lookup error:",
    "Failed to connect to remote host: ",
)
_ADDRESS = re.compile(r"^(UNKNOWN: |UNAVAILABLE: )?(ipv[46]:\S+: )?|\]$")
SUBMIT_SECONDS = 600.0  # of a call that carries a whole job archive over a hospital's link


def wait_to_reconnect(failures: int) -> None:
    """Sleeps before the next attempt to take a stream up again: exponential back-off with full jitter, capped."""
    longest = min(MAX_BACK_OFF_SECONDS, FIRST_BACK_OFF_SECONDS * 2.0 ** min(failures, 10))
    time.sleep(random.uniform(longest / 10, longest))  # noqa: S311  # jitter, no secret


def admin_folder(home: Path, name: str | None) -> Path:
    """The folder of the admin called `name`, or of the only one installed.

    Raises:
        NotFoundError: no admin kit is installed, or none of that name.
        ConfigError: several are installed and none is named.
    """
    admins = home / "admins"
    try:
        installed = sorted(entry.name for entry in admins.iterdir() if (entry / "kit").is_dir())
    except (FileNotFoundError, NotADirectoryError):
        installed = []
    except PermissionError as error:
        raise TrustError(f"{admins}: {error.strerror}", "run as the user who installed the kit") from error
    if name is not None:
        if name in installed:
            return admins / name
        known = f"installed: {', '.join(installed)}" if installed else "install it with 'fedhe-admin install KIT'"
        raise NotFoundError(f"no admin '{name}' is installed in {admins}", known)
    if not installed:
        raise NotFoundError(f"no admin kit is installed in {admins}", "install one with 'fedhe-admin install KIT'")
    if len(installed) > 1:
        raise ConfigError(
            f"{len(installed)} admins are installed in {admins}: {', '.join(installed)}", "choose one with --as NAME"
        )
    return admins / installed[0]


class AdminSession:
    """One admin's connection; a context manager that closes the channel.

    Attributes:
        installation: the admin's kit.
        server: `host:port`, for messages.
    """

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self.server = installation.address
        credentials = grpc.ssl_channel_credentials(
            root_certificates=installation.ca_pem,
            private_key=installation.private_key_pem,
            certificate_chain=installation.certificate_pem,
        )
        options = [*CHANNEL_OPTIONS, *proxy_options(installation.server_host, os.environ)]
        self._channel = grpc.secure_channel(installation.address, credentials, options=options)
        self._stub: Any = AdminStub(self._channel)  # type: ignore[no-untyped-call]  # generated code has no types

    @classmethod
    def open(cls, home: Path, name: str | None) -> Self:
        """Connects as the admin `name` (None: the only one) that is installed under `home`.

        Raises:
            NotFoundError: no such admin is installed.
            ConfigError: several are, and none is named.
            TrustError: the kit is damaged, expired, or readable by others.
        """
        folder = admin_folder(home, name)
        return cls(load_installation(folder, role_prefix="admin", now=time.time()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def call(self, method: str, request: Any, *, seconds: float = CALL_SECONDS) -> Any:
        """Performs one call of the Admin service and returns its reply.

        Raises:
            UnavailableError: the server cannot be reached or did not answer in time.
            TrustError: the server or this admin's certificate or role is not trusted.
            FedheError: whatever else the server answers, as its class.
        """
        with self._translated(seconds):
            return getattr(self._stub, method)(request, timeout=seconds)

    def pipeline(self, method: str, requests: Iterable[Any], *, ahead: int, seconds: float) -> Iterator[Any]:
        """Yields the replies to many calls in order, with up to `ahead` calls in flight.

        A call that fails because the server is away is repeated `RETRIES` times with full-jitter exponential back-off.

        Raises:
            FedheError: as `call`.
        """
        function = getattr(self._stub, method)
        waiting: deque[tuple[Any, Any]] = deque()
        left = iter(requests)
        try:
            while True:
                for request in itertools.islice(left, ahead - len(waiting)):
                    waiting.append((request, function.future(request, timeout=seconds)))
                if not waiting:
                    return
                request, future = waiting.popleft()
                try:
                    with self._translated(seconds):
                        reply = future.result()
                except UnavailableError:
                    reply = self._again(method, request, seconds)
                yield reply
        finally:
            for _, future in waiting:
                future.cancel()

    def _again(self, method: str, request: Any, seconds: float) -> Any:
        for attempt in range(1, RETRIES):
            time.sleep(random.uniform(0, FIRST_BACK_OFF_SECONDS * 2**attempt))  # noqa: S311  # jitter, no secret
            with suppress(UnavailableError):
                return self.call(method, request, seconds=seconds)
        return self.call(method, request, seconds=seconds)

    def stream(self, method: str, request: Any) -> Iterator[Any]:
        """Yields a streaming call's replies until the server ends it; raises as `call` does."""
        with self._translated(None):
            replies = getattr(self._stub, method)(request)
            try:
                yield from replies
            finally:
                replies.cancel()

    def group_key(self) -> GroupKey | None:
        """The group key of this admin's kit; None if the kit has none."""
        return read_site_keys(self.installation)[1] if self.installation.holds_key else None

    @contextmanager
    def _translated(self, seconds: float | None) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise self._explain(error, seconds) from error

    def _explain(self, error: Any, seconds: float | None) -> FedheError:
        details = error.details() or ""
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            waited = f" within {seconds:.0f} s" if seconds else ""
            return UnavailableError(f"server {self.server} did not answer{waited}", "try again, or look at its log")
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            return from_status(error)
        reason = _last_reason(printable(details))
        if any(sign in details for sign in _NAME_SIGNS):
            return TrustError(
                f"server {self.server} does not show a certificate of project '{self.installation.project}' "
                f"for that name: {reason}",
                "check the address in the project file, and that no other server listens there",
            )
        if any(sign in details for sign in _CLOSED_SIGNS):
            return UnavailableError(
                f"server {self.server} closed the connection: {reason}",
                "it lets in kits of its own project only; or a firewall cuts the connection",
            )
        return UnavailableError(
            f"server {self.server} is unreachable: {reason}",
            "is 'fedhe-server start' running there, and is the port open?",
        )


def _last_reason(details: str) -> str:
    """The telling end of gRPC's chain of reasons, e.g. `Connection refused`."""
    reason = details.rpartition("last error: ")[2].removesuffix(": OK")
    for start in _CHAIN:
        reason = reason.rpartition(start)[2]
    return _ADDRESS.sub("", reason).rstrip(".") or "no reason given"
