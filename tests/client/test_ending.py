"""Ending a job's work ends it, whatever fails at the same moment."""

import asyncio

from fedhe.client import job_task
from fedhe.client.transfer import _unwrapped
from fedhe.errors import TrustError


async def chunk():
    try:
        await asyncio.sleep(60)
    finally:
        raise TrustError("expected a sum, got none")


async def instruction(tries):
    """As `JobTask` carries one out: what fails is tried again."""
    while True:
        tries.append(1)
        try:
            async with _unwrapped(), asyncio.TaskGroup() as group:
                group.create_task(chunk())
        except TrustError:
            await asyncio.sleep(60)


async def test_work_whose_chunk_fails_while_it_is_cancelled_ends_all_the_same(monkeypatch):
    """Python's task group swallows that cancellation; an agent that waited for it could not be stopped."""
    monkeypatch.setattr(job_task, "CANCEL_AGAIN_SECONDS", 0.05)
    tries = []
    task = asyncio.create_task(instruction(tries))
    await asyncio.sleep(0.05)
    async with asyncio.timeout(30):
        await job_task._end(task)
    assert task.cancelled()
    assert tries == [1]
