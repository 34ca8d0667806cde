"""Wakes everybody who waits for something to change, without losing a change between looking and waiting."""

import asyncio
import contextlib


class Changes:
    """A signal for any number of waiters; lives in one event loop.

    Take `mark` first, then look, then `wait` for what comes after the mark.
    """

    def __init__(self) -> None:
        self._next = asyncio.Event()

    @property
    def mark(self) -> asyncio.Event:
        """Stands for all changes from now on."""
        return self._next

    def notify(self) -> None:
        """Something has changed."""
        self._next.set()
        self._next = asyncio.Event()

    async def wait(self, mark: asyncio.Event, seconds: float) -> None:
        """Returns at the first change after the mark was taken, or after some seconds."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(mark.wait(), timeout=max(0.0, seconds))
