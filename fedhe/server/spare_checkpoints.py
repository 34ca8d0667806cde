"""Drops sealed checkpoints that no site needs any more, where the disk budget is short; each job keeps its newest."""

import asyncio
from collections.abc import Iterable
from typing import Final

from fedhe.server import places, records
from fedhe.server.jobs import Job, key_of
from fedhe.server.parts import Parts
from fedhe.server.places import CHECKPOINT
from fedhe.server.records import ObjectRow
from fedhe.server.runner import Runner

LOOK_SECONDS: Final = 5.0
"""How often what is stored is counted."""


def spare(jobs: Iterable[Job]) -> list[tuple[Job, ObjectRow]]:
    """Checkpoints that may go, in the order in which they do: of jobs that have ended first, then the oldest first."""
    found = [
        (job, row)
        for job in jobs
        for key, row in job.objects.items()
        if key.kind == CHECKPOINT and key.number < max(job.checkpoints)
    ]
    return sorted(found, key=lambda one: (not one[0].state.phase.ended, one[1].finished_at))


class BudgetKeeper:
    """Looks after the disk budget of a running server; lives in its event loop."""

    def __init__(self, parts: Parts, runner: Runner) -> None:
        self._parts = parts
        self._runner = runner
        self._looked_at = 0.0

    async def look(self, *, now: float) -> None:
        """Counts what is stored, and drops what can be spared while the budget is short; called again and again.

        Raises:
            ResourceError: the disk fails; calling again goes on.
        """
        if self._parts.budget.limit is None or abs(now - self._looked_at) < LOOK_SECONDS:
            return
        self._looked_at = now
        await self._count()
        for job, row in spare(self._runner.jobs.values()):
            if not self._parts.budget.short:
                return
            await self._drop(job, row)
            await self._count()

    async def _count(self) -> None:
        used, _ = await asyncio.to_thread(self._parts.blobs.disk_usage)
        self._parts.budget.found(used)

    async def _drop(self, job: Job, row: ObjectRow) -> None:
        said = {"job": job.job_id, "version": row.number, "bytes": row.size}

        def write() -> None:
            with self._parts.store.write() as connection:
                records.delete_object(connection, row)
                self._parts.audit.decide(connection, self._parts.clock(), "checkpoint-dropped", said)
            self._parts.blobs.drop(places.place(row.job_id, row.kind, row.number, row.attempt, row.owner))

        await self._runner.write(write)
        job.objects.pop(key_of(row), None)
        message = f"the disk budget is short: the sealed checkpoint of version {row.number} is dropped"
        self._parts.log.write("warning", message, job_id=job.job_id)
        self._runner.notify()
