"""The standard gRPC health service, and how a supervisor on the same machine asks for it.

Sites and admins ask over the server's port with their certificates. A supervisor has none, so the server answers
health, and nothing else, on a Unix socket in its own folder too, which only its own user can open.
"""

import contextlib
from pathlib import Path

import grpc
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from fedhe.errors import ResourceError, UnavailableError

SOCKET = "health.sock"
MAX_SOCKET_PATH = 104
"""Longest path of a Unix socket, bytes; Linux allows 107, others fewer."""
CHECK_SECONDS = 5.0

SERVICES = ("", "fedhe.v1.Federation", "fedhe.v1.Admin")


class Health:
    """The health of one server, on its port and on its socket."""

    def __init__(self) -> None:
        self._servicer = health.aio.HealthServicer()  # type: ignore[attr-defined]  # the type stubs do not know it
        self._local: aio.Server | None = None
        self._socket: Path | None = None

    def add_to(self, server: aio.Server) -> None:
        """Registers the service."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def set_serving(self, serving: bool) -> None:
        """Says whether the server serves."""
        state = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in SERVICES:
            await self._servicer.set(service, state)

    async def listen(self, folder: Path) -> bool:
        """Answers on the folder's socket.

        Returns:
            False if the folder takes no socket: its path is too long, its disk is full or knows no sockets.
        """
        path = folder / SOCKET
        if len(str(path).encode()) > MAX_SOCKET_PATH:
            return False
        local = aio.server()
        self.add_to(local)
        try:
            path.unlink(missing_ok=True)
            local.add_insecure_port(f"unix:{path}")
        except (OSError, RuntimeError):  # gRPC says only that binding failed
            return False
        self._local, self._socket = local, path
        await local.start()
        return True

    async def close(self) -> None:
        """Ends all watching, and the socket."""
        await self._servicer.enter_graceful_shutdown()
        if self._local is not None:
            await self._local.stop(grace=0)
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.unlink(missing_ok=True)


def check_health(folder: Path) -> str:
    """Asks the server that runs in a folder.

    Returns:
        One line that says that it serves.

    Raises:
        UnavailableError: no server runs there, or it is starting or stopping.
        ResourceError: the folder's path is too long for a socket.
    """
    path = folder / SOCKET
    if len(str(path).encode()) > MAX_SOCKET_PATH:
        raise ResourceError(
            f"{path} is longer than {MAX_SOCKET_PATH} bytes, too long for a socket", "use a shorter --home"
        )
    if not path.exists():
        raise UnavailableError(f"no server runs in {folder}", "fedhe-server start")
    with grpc.insecure_channel(f"unix:{path}") as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=""), timeout=CHECK_SECONDS
            )
        except grpc.RpcError as error:
            raise UnavailableError(f"the server in {folder} does not answer", "look at its log") from error
    if reply.status != health_pb2.HealthCheckResponse.SERVING:
        raise UnavailableError("the server is starting or stopping", "ask again")
    return "the server is healthy"
