"""Bounds what calls hold in memory: only so many at a time have their message received and their answer sent.

A call waits for its turn before its message is received; until then HTTP/2's flow control keeps the message at its
sender. So the server's memory is that of a few calls, however many sites upload at once.

A turn ends with its call. A sender that is slow keeps it for `HOLD_SECONDS` only and is then counted among the slow, of
which there may be `MAX_SLOW`, so that it holds up nobody. One participant has `FOR_EACH` turns at most, slow ones
included: whoever opens calls and leaves them waits for himself alone.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final

AT_ONCE: Final = 12
"""Calls that are received, worked on and answered at a time."""

HOLD_SECONDS: Final = 2.0
"""How long a call counts among those: 1 MiB at 4 Mbit/s."""

MAX_SLOW: Final = 64
"""Calls that take longer: 1 MiB each where sites behave, `limits.MAX_REQUEST_BYTES` at most."""

FOR_EACH: Final = 8
"""Turns that one participant has at a time; a site sends or fetches four chunks, and polls."""


class Turn:
    """One call's; see `Turns.take`."""

    def __init__(self, release: Callable[["Turn"], None]) -> None:
        self._release = release
        self.timer: asyncio.TimerHandle | None = None

    def release(self) -> None:
        """Lets the next call have it; releasing again does nothing."""
        self._release(self)


class Turns:
    """All calls of a server; lives in one event loop.

    Args:
        at_once: see `AT_ONCE`.
        hold_seconds: see `HOLD_SECONDS`.
        max_slow: see `MAX_SLOW`.
        for_each: see `FOR_EACH`.
    """

    def __init__(
        self,
        at_once: int = AT_ONCE,
        hold_seconds: float = HOLD_SECONDS,
        max_slow: int = MAX_SLOW,
        for_each: int = FOR_EACH,
    ) -> None:
        self._free = asyncio.Semaphore(at_once)
        self._hold_seconds = hold_seconds
        self._max_slow = max_slow
        self._for_each = for_each
        self._own: dict[str, asyncio.Semaphore] = {}
        self._waiting_or_held: Counter[str] = Counter()
        self._held: dict[Turn, None] = {}
        self._overdue: dict[Turn, None] = {}  # of those held: slow, with no place among the slow
        self._slow: dict[Turn, None] = {}

    async def take(self, who: str) -> Turn:
        """Waits for a turn of the call in whose task this runs; it ends with the task, unless it is released before.

        Args:
            who: the participant that calls.
        """
        task = asyncio.current_task()
        if task is None:
            raise AssertionError("calls are answered in tasks")
        own = self._own.setdefault(who, asyncio.Semaphore(self._for_each))
        self._waiting_or_held[who] += 1
        try:
            await own.acquire()
            try:
                await self._free.acquire()
            except BaseException:
                own.release()
                raise
        except BaseException:
            self._forget(who)
            raise

        def release(turn: Turn) -> None:
            if self._let_go(turn):
                own.release()
                self._forget(who)

        turn = Turn(release)
        self._held[turn] = None
        turn.timer = asyncio.get_running_loop().call_later(self._hold_seconds, self._is_slow, turn)
        task.add_done_callback(lambda _: turn.release())
        return turn

    def _is_slow(self, turn: Turn) -> None:
        if len(self._slow) >= self._max_slow:
            self._overdue[turn] = None
            return
        self._overdue.pop(turn, None)
        del self._held[turn]
        self._slow[turn] = None
        self._free.release()

    def _let_go(self, turn: Turn) -> bool:
        """Whether the turn was not released before."""
        if turn.timer is not None:
            turn.timer.cancel()
        self._overdue.pop(turn, None)
        if turn in self._held:
            del self._held[turn]
            self._free.release()
            return True
        if turn in self._slow:
            del self._slow[turn]
            if self._overdue:
                self._is_slow(next(iter(self._overdue)))
            return True
        return False

    def _forget(self, who: str) -> None:
        self._waiting_or_held[who] -= 1
        if not self._waiting_or_held[who]:
            del self._waiting_or_held[who], self._own[who]
