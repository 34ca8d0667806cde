"""A TCP proxy that misbehaves as networks do: cuts, silence, latency, narrow links, and streams that may not be long.

Runs in a thread of its own; its methods may be called from any thread. It moves bytes and knows nothing of TLS.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

PIECE_BYTES = 16 * 1024
MAX_DELAYED_PIECES = 64  # on their way in one direction; more wait in the sender's socket, as on a real line
STALL_EVERY = 100
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER that makes closing a reset


@dataclass(frozen=True)
class Weather:
    """How the network is.

    Attributes:
        latency: seconds that each byte takes in each direction.
        bytes_per_second: of each connection in each direction; 0 for no limit.
        longest_bytes: a connection that has moved so many is reset; 0 for no limit.
        stall: seconds that one piece in `STALL_EVERY` waits, and all behind it: what a lost packet looks like to TCP.
        silent: nothing moves, and no connection is closed.
        refusing: new connections are reset at once.
    """

    latency: float = 0.0
    bytes_per_second: float = 0.0
    longest_bytes: int = 0
    stall: float = 0.0
    silent: bool = False
    refusing: bool = False


class Proxy:
    """Listens on a port of this computer for a server on another one; leaving the `with` block ends it."""

    def __init__(self, port: int, target: int) -> None:
        self.port, self.target = port, target
        self.connections = self.cuts = 0
        self._weather = Weather()
        self._changed = asyncio.Event()
        self._open: set[_Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._do(asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=PIECE_BYTES))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def set(self, weather: Weather) -> None:
        """How the network is from now on."""
        self._do(self._set(weather))

    def cut(self) -> int:
        """Resets all connections; returns how many there were."""
        return self._do(self._cut())

    def forget(self) -> int:
        """Leaves all connections half-open: nothing moves on them any more, and the sites are not told."""
        return self._do(self._forget())

    # ---- in the proxy's thread ----

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _set(self, weather: Weather) -> None:
        self._weather = weather
        self._changed.set()
        self._changed = asyncio.Event()

    async def _cut(self) -> int:
        alive = [one for one in self._open if not one.forgotten]
        for one in alive:
            one.reset()
        self.cuts += len(alive)
        return len(alive)

    async def _forget(self) -> int:
        alive = [one for one in self._open if not one.forgotten]
        for one in alive:
            one.forget()
        self.cuts += len(alive)
        return len(alive)

    async def _end(self) -> None:
        self._server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for one in list(self._open):
            one.reset()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        await self._while_silent()
        if self._weather.refusing:
            _reset(writer)
            return
        try:
            there = await asyncio.open_connection("127.0.0.1", self.target, limit=PIECE_BYTES)
        except OSError:
            _reset(writer)
            return
        connection = _Connection(writer, there[1])
        self._open.add(connection)
        ways = [
            asyncio.create_task(self._way(connection, reader, there[1])),
            asyncio.create_task(self._way(connection, there[0], writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            await _end(ways)
            if connection.forgotten:  # until the site gives it up by itself
                await _swallow(reader)
        finally:
            await _end(ways)
            connection.reset()
            self._open.discard(connection)

    async def _way(self, connection: "_Connection", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Moves bytes one way: one task reads and notes when a piece is due, the other delivers it."""
        line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(MAX_DELAYED_PIECES)
        free_at, counted = 0.0, 0

        async def deliver() -> None:
            while True:
                due, piece = await line.get()
                await asyncio.sleep(max(0.0, due - self._loop.time()))
                await self._while_silent()
                writer.write(piece)
                await writer.drain()

        delivery = asyncio.create_task(deliver())
        try:
            while piece := await reader.read(PIECE_BYTES):
                weather, now = self._weather, self._loop.time()
                if weather.bytes_per_second:
                    free_at = max(free_at, now) + len(piece) / weather.bytes_per_second
                    await asyncio.sleep(free_at - now)
                counted += 1
                if weather.stall and counted % STALL_EVERY == 0:
                    await asyncio.sleep(weather.stall)
                connection.moved += len(piece)
                if weather.longest_bytes and connection.moved > weather.longest_bytes:
                    self.cuts += 1
                    return
                await line.put((self._loop.time() + weather.latency, piece))
                if delivery.done():
                    return
        except OSError:
            return
        finally:
            delivery.cancel()
            await asyncio.gather(delivery, return_exceptions=True)

    async def _while_silent(self) -> None:
        while self._weather.silent:
            await self._changed.wait()


@dataclass(eq=False)
class _Connection:
    here: asyncio.StreamWriter
    there: asyncio.StreamWriter
    moved: int = 0
    forgotten: bool = False

    def reset(self) -> None:
        _reset(self.here)
        _reset(self.there)

    def forget(self) -> None:
        """The server sees the connection end, the site does not."""
        self.forgotten = True
        _reset(self.there)


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None and not writer.transport.is_closing():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _swallow(reader: asyncio.StreamReader) -> None:
    """Takes what the site still says, until it gives up."""
    with contextlib.suppress(OSError):
        while await reader.read(PIECE_BYTES):
            pass
