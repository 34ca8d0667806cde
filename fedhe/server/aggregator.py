"""Adds uploads chunk by chunk, on disk: chunk i of the sum is made as soon as all sites on the roster have sent theirs.

Everything it needs is in the blob store, so it may be stopped at any moment and goes on where it was: a chunk of the
sum is there completely or not at all, and making it again gives the same bytes.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from fedhe.errors import ConfigError, NotFoundError, ResourceError
from fedhe.he.seal_sums import SealSums
from fedhe.server import places
from fedhe.server.blobs import BlobInfo, BlobStore
from fedhe.server.summing import BadAddendError, SumTask, sum_chunk

RETRY_SECONDS = 2.0
"""Pause after a full disk or a killed worker, before the chunk is tried again."""


@dataclass(frozen=True)
class Listener:
    """Who is told how sums go.

    Args:
        finished: the sum is complete on disk.
        bad_addend: a site's chunk cannot be added; the task has ended.
        pausing: why the task waits and will try again.
    """

    finished: Callable[[SumTask, BlobInfo], Awaitable[None]]
    bad_addend: Callable[[SumTask, BadAddendError], Awaitable[None]]
    pausing: Callable[[SumTask, str], None]


@dataclass
class _Running:
    task: SumTask
    worker: asyncio.Task[None]
    arrived: dict[int, set[str]]
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)


class Aggregator:
    """Runs one sum per job; lives in one event loop.

    Args:
        blobs: where uploads are and sums go.
        listener: told how they go.
        seal_sums: expands SEAL's seeds.
        workers: how many chunks are added at a time, in all jobs.
    """

    def __init__(self, blobs: BlobStore, listener: Listener, seal_sums: SealSums, *, workers: int) -> None:
        self._blobs = blobs
        self._listener = listener
        self._workers = workers
        self._seal_sums = seal_sums
        self._slots = asyncio.Semaphore(workers)
        self._running: dict[str, _Running] = {}

    def start(self, task: SumTask) -> None:
        """Begins, or goes on with, a sum; one that runs for the job's earlier attempt is cancelled."""
        running = self._running.get(task.job_id)
        if running is not None and running.task == task:
            return
        self.cancel(task.job_id)
        arrived: dict[int, set[str]] = {index: set() for index in range(task.chunks)}
        for site in task.sites:
            for index in self._blobs.chunks(places.update(task.job_id, task.round, task.attempt, site)):
                if index in arrived:
                    arrived[index].add(site)
        worker = asyncio.create_task(self._run(task), name=f"sum {task.job_id} {task.round}/{task.attempt}")
        self._running[task.job_id] = _Running(task, worker, arrived)

    def chunk_arrived(self, job_id: str, round_: int, attempt: int, site: str, index: int) -> None:
        """Tells that a chunk of an upload is stored."""
        running = self._running.get(job_id)
        if running is None or (running.task.round, running.task.attempt) != (round_, attempt):
            return
        if site in running.task.sites and index in running.arrived:
            running.arrived[index].add(site)
            running.changed.set()

    def release(self, job_id: str) -> None:
        """Allows the job's sum to be told as finished: all its uploads were declared complete."""
        running = self._running.get(job_id)
        if running is None or running.released.is_set():
            return
        # A call that is cut while its chunk is stored does not come to `chunk_arrived`, nor is the chunk sent again.
        for sites in running.arrived.values():
            sites.update(running.task.sites)
        running.changed.set()
        running.released.set()

    def cancel(self, job_id: str) -> None:
        """Stops the job's sum, if one runs; what is on disk stays."""
        if running := self._running.pop(job_id, None):
            running.worker.cancel()

    async def close(self) -> None:
        """Stops all sums and the worker processes."""
        workers = [running.worker for running in self._running.values()]
        for job_id in list(self._running):
            self.cancel(job_id)
        await asyncio.gather(*workers, return_exceptions=True)
        await asyncio.to_thread(self._seal_sums.close)

    async def _run(self, task: SumTask) -> None:
        try:
            await self._add_all(task)
            running = self._running[task.job_id]
            await running.released.wait()
            key = places.sum_(task.job_id, task.round, task.attempt)
            info = await asyncio.to_thread(self._blobs.complete, key, task.chunks)
            del self._running[task.job_id]
            await self._listener.finished(task, info)
        except BadAddendError as error:
            self._running.pop(task.job_id, None)
            await self._listener.bad_addend(task, error)

    async def _add_all(self, task: SumTask) -> None:
        running = self._running[task.job_id]
        done = self._blobs.chunks(places.sum_(task.job_id, task.round, task.attempt))
        waiting = [index for index in range(task.chunks) if index not in done]
        adding: set[asyncio.Task[None]] = set()
        try:
            while waiting or adding:
                running.changed.clear()
                # No more tasks than workers: each holds a chunk, and memory is to stay at a few chunks.
                for index in [index for index in waiting if len(running.arrived[index]) == len(task.sites)]:
                    if len(adding) >= self._workers:
                        break
                    waiting.remove(index)
                    adding.add(asyncio.create_task(self._add(task, index)))
                arrival = asyncio.create_task(running.changed.wait())
                try:
                    await asyncio.wait({arrival, *adding}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    arrival.cancel()
                for ended in {one for one in adding if one.done()}:
                    adding.discard(ended)
                    ended.result()
        finally:
            for one in adding:
                one.cancel()
            await asyncio.gather(*adding, return_exceptions=True)

    async def _add(self, task: SumTask, index: int) -> None:
        while True:
            try:
                async with self._slots:
                    await asyncio.to_thread(self._add_here, task, index)
            except (ConfigError, ResourceError, NotFoundError) as error:
                self._listener.pausing(task, f"chunk {index} of the sum: {error.message}")
            else:
                return
            await asyncio.sleep(RETRY_SECONDS)

    def _add_here(self, task: SumTask, index: int) -> None:
        def read(site: str) -> bytes:
            data, _ = self._blobs.get(places.update(task.job_id, task.round, task.attempt, site), index)
            return data

        data = sum_chunk(task, index, read, self._seal_sums.add)
        self._blobs.put(places.sum_(task.job_id, task.round, task.attempt), index, data)
