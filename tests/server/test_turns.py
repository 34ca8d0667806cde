"""Calls take turns: a few are received at a time, slow ones hold up nobody, and nobody has more than his share."""

import asyncio
import contextlib

import pytest

from fedhe.server.turns import Turns


class Calls:
    """Calls that hold their turn until they are ended."""

    def __init__(self, **limits):
        self.turns = Turns(**{"at_once": 2, "hold_seconds": 60.0, "max_slow": 2, "for_each": 10, **limits})
        self.begun = []
        self.tasks = {}

    async def open(self, *names, who=None):
        for name in names:
            self.tasks[name] = asyncio.create_task(self._call(name, who or name))
        await settle()

    async def _call(self, name, who):
        await self.turns.take(who)
        self.begun.append(name)
        await asyncio.Event().wait()

    async def end(self, *names):
        for name in names:
            self.tasks[name].cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.tasks[name]
        await settle()


async def settle():
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
def run():
    def run(scenario, **limits):
        async def within():
            calls = Calls(**limits)
            try:
                await scenario(calls)
            finally:
                await calls.end(*calls.tasks)

        asyncio.run(within())

    return run


def test_only_so_many_calls_have_a_turn_at_a_time(run):
    async def scenario(calls):
        await calls.open("a", "b", "c", "d")
        assert calls.begun == ["a", "b"]
        await calls.end("a")
        assert calls.begun == ["a", "b", "c"]
        await calls.end("d", "b", "c")
        await calls.open("e", "f", "g")
        assert calls.begun == ["a", "b", "c", "e", "f"]  # one that ended while it waited took none

    run(scenario)


def test_slow_calls_hold_up_nobody_until_they_are_too_many(run):
    async def scenario(calls):
        await calls.open("a", "b", "c", "d", "e", "f")
        await asyncio.sleep(0.3)
        assert calls.begun == ["a", "b", "c", "d"]  # two are slow, two more are as many as may be under way
        await calls.end("a")
        assert calls.begun == ["a", "b", "c", "d", "e"]
        await calls.end("e")
        assert calls.begun == ["a", "b", "c", "d", "e", "f"]

    run(scenario, hold_seconds=0.02)


def test_who_opens_many_calls_waits_for_himself_alone(run):
    async def scenario(calls):
        await calls.open("x1", "x2", "x3", "x4", who="x")
        await calls.open("a", "b")
        assert calls.begun == ["x1", "x2", "a", "b"]
        await calls.end("x1")
        assert calls.begun == ["x1", "x2", "a", "b", "x3"]

    run(scenario, at_once=4, for_each=2)


def test_a_turn_that_was_given_back_is_not_given_back_again():
    async def scenario():
        turns = Turns(at_once=1, hold_seconds=60.0)
        (await turns.take("a")).release()
        await turns.take("a")  # this task's end gives both back
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await turns.take("b")

    asyncio.run(scenario())


def test_nothing_is_kept_of_who_has_gone(run):
    async def scenario(calls):
        await calls.open("a", "b", "c")
        await calls.end("a", "b", "c")
        assert not calls.turns._own
        assert not calls.turns._waiting_or_held

    run(scenario)
