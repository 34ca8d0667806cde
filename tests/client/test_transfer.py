"""Chunks move together: the first error ends all of them, and a cancellation is never lost."""

import asyncio

import pytest

from fedhe.client.transfer import _for_each
from fedhe.errors import TrustError


async def fail_at_2(index):
    if index == 2:
        raise TrustError("expected a sum, got none")
    await asyncio.sleep(60)


async def test_the_first_error_is_raised_itself_and_ends_the_others():
    before = asyncio.all_tasks()
    with pytest.raises(TrustError, match="expected a sum"):
        await _for_each(range(4), fail_at_2)
    assert asyncio.all_tasks() == before


async def test_all_chunks_are_moved():
    moved = []

    async def move(index):
        await asyncio.sleep(0)
        moved.append(index)

    await _for_each(range(5), move)
    assert sorted(moved) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_transfer_that_is_cancelled_while_a_chunk_fails_is_cancelled(moment):
    """Else the job would take the failure for something to be tried again, and the agent could not be stopped."""
    go = asyncio.Event()

    async def fail(_index):
        try:
            await go.wait()
        finally:
            raise TrustError("expected a sum, got none")

    transfer = asyncio.create_task(_for_each(range(3), fail))
    await asyncio.sleep(0.01)
    if moment == "after":
        go.set()
        await asyncio.sleep(0)  # the chunks have failed, and nobody has heard of it
    transfer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await transfer
