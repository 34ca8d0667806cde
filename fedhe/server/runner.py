"""Feeds the round machine and performs what it asks for. The only place where a job's state changes.

One event at a time: the machine decides, the new state is on the disk together with everything that belongs to it,
then it counts, then its effects are performed. Effects follow from the state, so `resume` performs after a crash what
may not have been performed, and each tick what a full disk prevented.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

from sqlalchemy.engine import Connection

from fedhe.errors import FedheError, NotFoundError, ResourceError, StateError, TrustError
from fedhe.he.seal_sums import SealSums
from fedhe.rounds import events
from fedhe.rounds.effects import Announce, DropSums, DropUploads, Effects
from fedhe.rounds.machine import step
from fedhe.rounds.state import JobState, Phase
from fedhe.server import history, places, records
from fedhe.server.aggregator import Aggregator, Listener
from fedhe.server.blobs import BlobInfo
from fedhe.server.changes import Changes
from fedhe.server.fetched import Fetched, store_fetched
from fedhe.server.jobs import Job, key_of, write_state
from fedhe.server.parts import Parts
from fedhe.server.places import SUM
from fedhe.server.records import ObjectRow
from fedhe.server.summing import BadAddendError, SumTask
from fedhe.server.upkeep import drop_unneeded

Also = Callable[[Connection], None]
"""What is written in the same transaction as a new state."""

ResultT = TypeVar("ResultT")


class Runner:
    """All jobs of a server; lives in one event loop.

    Args:
        parts: what it works with.
        jobs: as they were stored.
        workers: how many chunks are added at a time, and processes that expand SEAL's seeds.
    """

    def __init__(self, parts: Parts, jobs: Iterable[Job], *, workers: int) -> None:
        self._parts = parts
        self._jobs = {job.job_id: job for job in jobs}
        self._turn = asyncio.Lock()
        self._saving = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._untidy: set[str] = set()
        # One thread: states follow each other anyway, and each thread that writes them keeps memory for a large one.
        self._database = ThreadPoolExecutor(1, thread_name_prefix="database")
        self.fetched = Fetched()
        """What sites fetched of sums."""
        self.changes = Changes()
        """Jobs and their states."""
        self.progress = Changes()
        """Those, and what sites say they are doing."""
        listener = Listener(self._sum_finished, self._bad_addend, self._sum_pauses)
        self.aggregator = Aggregator(parts.blobs, listener, SealSums(parts.params, workers), workers=workers)

    @property
    def jobs(self) -> Mapping[str, Job]:
        """All jobs by id, oldest first."""
        return self._jobs

    def job(self, job_id: str) -> Job:
        """One job.

        Raises:
            NotFoundError: there is none of that id.
        """
        job = self._jobs.get(job_id)
        if job is None:
            raise NotFoundError(f"no job {job_id[:80]!r} on this server", "fedhe-admin jobs list shows them")
        return job

    def notify(self) -> None:
        """Wakes everybody who waits for a change."""
        self.changes.notify()
        self.progress.notify()

    # ---- life ----

    async def resume(self) -> None:
        """Takes all jobs up where a stopped or killed server left them."""
        for name in await asyncio.to_thread(self._parts.blobs.folders, ""):
            if name not in self._jobs:  # its submission was cut before it was recorded, or its deletion after
                await asyncio.to_thread(self._parts.blobs.drop, places.job(name))
        for job in self._jobs.values():
            await self._tidy(job)
            if job.state.phase.running:
                await self._feed_quietly(job.job_id, events.Resumed(self._parts.clock()))
            self._aim_aggregator(job)
        await self.deliver_audit()

    async def tick(self) -> None:
        """What passing time brings: deadlines, counters to the disk, and what could not be done before."""
        now = self._parts.clock()
        for job in list(self._jobs.values()):
            if job.state.phase.running:
                await self._feed_quietly(job.job_id, events.Tick(now))
            if job.job_id in self._untidy:
                await self._alone(self._tidy(job))
            self._aim_aggregator(job)
        await self.save_fetched()
        await self.deliver_audit()

    async def close(self) -> None:
        """Ends sums, and waits for what is being written."""
        await self.aggregator.close()
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self.save_fetched()
        self._database.shutdown()

    # ---- jobs come and go ----

    async def add(self, job: Job, also: Also) -> None:
        """Takes a new job in, durably.

        Raises:
            ResourceError: the disk does not take it.
        """

        def write() -> None:
            with self._parts.store.write() as connection:
                records.insert_job(connection, job.row)
                for row in job.objects.values():
                    records.put_object(connection, row)
                also(connection)

        async def add() -> None:
            await asyncio.to_thread(write)
            self._jobs[job.job_id] = job
            self.notify()
            await self.deliver_audit()

        await self._alone(add())

    async def delete(self, job_id: str, also: Also) -> None:
        """Removes a job that is not running, with all that belongs to it.

        Raises:
            StateError: it runs.
            NotFoundError: there is none of that id.
            ResourceError: the disk does not take it.
        """

        def write() -> None:
            with self._parts.store.write() as connection:
                records.delete_job(connection, job_id)
                also(connection)
            self._parts.blobs.drop(places.job(job_id))

        async def delete() -> None:
            if (phase := self.job(job_id).state.phase).running:
                raise StateError(f"job {job_id} is in phase {phase}", "abort it before deleting it")
            await asyncio.to_thread(write)
            del self._jobs[job_id]
            self._parts.presence.forget_job(job_id)
            self.notify()
            await self.deliver_audit()

        await self._alone(delete())

    async def write(self, write: Callable[[], None]) -> None:
        """Writes what belongs to no job, between two events, to its end even if the call that asked is cut.

        Raises:
            ResourceError: the disk does not take it.
        """

        async def written() -> None:
            await asyncio.to_thread(write)
            await self.deliver_audit()

        await self._alone(written())

    # ---- events ----

    async def feed(
        self, job_id: str, event: events.Event, also: Also | None = None, *, even_if_unchanged: bool = False
    ) -> JobState:
        """Has the machine decide on an event, and everything that follows from it durable, before it returns.

        Args:
            job_id: the job.
            event: what happened.
            also: written in the same transaction, if the event changes the state.
            even_if_unchanged: `also` is written in any case.

        Returns:
            The job's state after the event.

        Raises:
            StateError: the machine does not allow the event now.
            RemoteProtocolError: what a site says does not fit what others said.
            NotFoundError: there is no such job.
            ResourceError: the disk does not take it; nothing has changed.
        """
        return await self._alone(self._feed(job_id, event, also, even_if_unchanged))

    async def _feed(self, job_id: str, event: events.Event, also: Also | None, always: bool) -> JobState:
        job = self.job(job_id)
        before = job.state
        after, effects = step(before, event)
        if not effects and after == before and not (always and also):
            return before
        row = job.row
        if after.phase.ended and not before.phase.ended:
            row = replace(row, ended_at=event.now)

        def commit() -> list[ObjectRow]:
            with self._parts.store.write() as connection:
                records.update_job(connection, job_id, write_state(after), row.ended_at)
                history.record(connection, before, after, event.now)
                self._decide(connection, job_id, effects, event.now)
                if also is not None:
                    also(connection)
                return records.objects(connection, job_id)

        stored = await asyncio.get_running_loop().run_in_executor(self._database, commit)
        job.state, job.row = after, row
        job.objects = {key_of(one): one for one in stored}
        await self._perform(job, effects)
        if after != before:
            self.notify()
        return after

    def _decide(self, connection: Connection, job_id: str, effects: Effects, now: float) -> None:
        for effect in effects:
            if isinstance(effect, Announce):
                said = {"job": job_id, "message": effect.message, "round": effect.round, "sites": list(effect.sites)}
                self._parts.audit.decide(connection, now, effect.kind, said)

    async def _perform(self, job: Job, effects: Effects) -> None:
        for effect in effects:
            if isinstance(effect, Announce):
                self._parts.log.write("info", effect.message, job_id=job.job_id)
        self._aim_aggregator(job)
        if job.state.phase.ended or any(isinstance(effect, DropUploads | DropSums) for effect in effects):
            await self._tidy(job)
        await self.deliver_audit()

    async def _alone(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        """Runs one piece of work at a time, to its end even if the call that asked for it is cut."""

        async def wait_for_turn() -> ResultT:
            async with self._turn:
                return await work

        task = asyncio.create_task(wait_for_turn())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def deliver_audit(self) -> None:
        """Carries decided audit lines on to the log; on a full disk they wait in the database."""
        try:
            await asyncio.to_thread(self._parts.audit.deliver)
        except (ResourceError, TrustError) as error:
            self._parts.log.write("error", f"audit log: {error.message}")

    async def _feed_quietly(self, job_id: str, event: events.Event, also: Also | None = None) -> None:
        """Feeds an event of the server's own; a failure is logged, and the next tick comes back to its cause."""
        try:
            await self.feed(job_id, event, also)
        except FedheError as error:
            self._parts.log.write("warning", f"{type(event).__name__}: {error.message}", job_id=job_id)

    async def feed_all(self, event: events.Event) -> None:
        """Feeds one event to all jobs that have not ended.

        Raises:
            ResourceError: the disk does not take it; feeding again does no harm.
        """
        for job in list(self._jobs.values()):
            if not job.state.phase.ended:
                with contextlib.suppress(NotFoundError):  # deleted meanwhile
                    await self.feed(job.job_id, event)

    # ---- sums ----

    def _aim_aggregator(self, job: Job) -> None:
        state = job.state
        if state.roster is None or state.phase not in {Phase.UPLOAD, Phase.SUM}:
            self.aggregator.cancel(job.job_id)
            return
        roster = state.roster
        self.aggregator.start(
            SumTask(
                job_id=job.job_id,
                round=roster.round,
                attempt=roster.attempt,
                sites=roster.sites,
                chunks=roster.chunks,
                params=job.params,
                key_id=roster.entries[0].key_id,
                context=roster.context,
                max_forwarded=self._parts.max_forwarded,
            )
        )
        if state.phase is Phase.SUM:
            self.aggregator.release(job.job_id)

    async def _sum_finished(self, task: SumTask, info: BlobInfo) -> None:
        now = self._parts.clock()
        row = ObjectRow(task.job_id, SUM, task.round, task.attempt, "", info.chunks, info.size, info.digest, now)

        def also(connection: Connection) -> None:
            records.put_object(connection, row)
            values = {"sum_digest": info.digest, "sum_bytes": info.size}
            records.update_round(connection, task.job_id, task.round, **values)

        event = events.SumFinished(task.round, task.attempt, info.digest, now)
        await self._feed_quietly(task.job_id, event, also)

    async def _bad_addend(self, task: SumTask, error: BadAddendError) -> None:
        # It passed the checks at its arrival, so it was made to; the site stays out until an admin enables it again.
        reason = f"its upload cannot be added: {error.message}"
        await self._feed_quietly(task.job_id, events.SiteGone(error.site, reason, self._parts.clock()))

    def _sum_pauses(self, task: SumTask, reason: str) -> None:
        self._parts.log.write("warning", f"round {task.round}: {reason}; trying again", job_id=task.job_id)

    # ---- upkeep ----

    async def _tidy(self, job: Job) -> None:
        try:
            gone = await asyncio.to_thread(drop_unneeded, self._parts.store, self._parts.blobs, job)
        except ResourceError as error:
            self._untidy.add(job.job_id)
            self._parts.log.write("warning", f"cannot clean up: {error.message}; trying again", job_id=job.job_id)
            return
        self._untidy.discard(job.job_id)
        for key in gone:
            job.objects.pop(key, None)

    async def save_fetched(self) -> None:
        """Stores how much sites have fetched; what a full disk does not take is stored the next time."""
        async with self._saving:
            counted, job_ids = self.fetched.take(), frozenset(self._jobs)
            if not counted:
                return

            def write() -> None:
                with self._parts.store.write() as connection:
                    store_fetched(connection, counted, job_ids)

            try:
                await asyncio.to_thread(write)
            except ResourceError as error:
                self.fetched.put_back(counted)
                self._parts.log.write("warning", f"cannot count fetched bytes: {error.message}")
