"""Bounds what calls hold in memory: only so many at a time have their message received and their answer sent.

A call waits for its turn before its message is received; until then HTTP/2's flow control keeps the message at its
sender. So the server's memory is that of a few calls, however many sites upload at once.

A turn ends with its call. A sender that is slow keeps it for `HOLD_SECONDS` only and is then counted among the slow,
so that it holds up nobody; of these there may be `MAX_SLOW`, and one more ends the one that has been slow for longest.
Its site sends again. A message that comes quickly is never cut, and slow ones are while more than `MAX_SLOW` are.
"""

import asyncio
from typing import Final

AT_ONCE: Final = 12
"""Calls that are received, worked on and answered at a time."""

HOLD_SECONDS: Final = 2.0
"""How long a call counts among those: 1 MiB at 4 Mbit/s."""

MAX_SLOW: Final = 64
"""Calls that take longer: 1 MiB each where sites behave, `limits.MAX_REQUEST_BYTES` at most."""


class Turn:
    """One call's; see `Turns.take`."""

    def __init__(self, turns: "Turns", task: "asyncio.Task[object]") -> None:
        self._turns = turns
        self._held = True  # one of AT_ONCE; after that it is slow, or over
        self.task = task
        self._timer = asyncio.get_running_loop().call_later(turns.hold_seconds, self._pass_on)

    def _pass_on(self) -> None:
        self._held = False
        self._turns.free.release()
        self._turns.add_slow(self)

    def release(self) -> None:
        """Lets the next call have it; releasing again does nothing."""
        self._timer.cancel()
        self._turns.slow.pop(self, None)
        if self._held:
            self._held = False
            self._turns.free.release()


class Turns:
    """All calls of a server; lives in one event loop.

    Args:
        at_once: see `AT_ONCE`.
        hold_seconds: see `HOLD_SECONDS`.
        max_slow: see `MAX_SLOW`.
    """

    def __init__(self, at_once: int = AT_ONCE, hold_seconds: float = HOLD_SECONDS, max_slow: int = MAX_SLOW) -> None:
        self.free = asyncio.Semaphore(at_once)
        self.hold_seconds = hold_seconds
        self._max_slow = max_slow
        self.slow: dict[Turn, None] = {}
        """In the order in which they became slow."""

    async def take(self) -> Turn:
        """Waits for a turn of the call in whose task this runs; it ends with the task, unless it is released before."""
        task = asyncio.current_task()
        if task is None:
            raise AssertionError("calls are answered in tasks")
        await self.free.acquire()
        turn = Turn(self, task)
        task.add_done_callback(lambda _: turn.release())
        return turn

    def add_slow(self, turn: Turn) -> None:
        """Counts a call among the slow, and ends the one that has been slow for longest where they are too many."""
        self.slow[turn] = None
        if len(self.slow) > self._max_slow:
            oldest = next(iter(self.slow))
            del self.slow[oldest]
            oldest.task.cancel()
