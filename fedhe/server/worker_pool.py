"""A few worker processes (summing.py), started when they are needed and replaced when they die."""

import asyncio
import contextlib
import json
import os
import sys

from fedhe.errors import ResourceError
from fedhe.server.summing import BadAddendError, SumOrder, write_order
from fedhe.wire.limits import MAX_CHUNK_BYTES

_COMMAND = (sys.executable, "-P", "-m", "fedhe.server.summing")


class WorkerPool:
    """Lives in one event loop.

    Args:
        workers: most processes at a time.
    """

    def __init__(self, workers: int) -> None:
        self._idle: list[asyncio.subprocess.Process] = []
        self._all: set[asyncio.subprocess.Process] = set()
        self._slots = asyncio.Semaphore(workers)

    async def sum_chunk(self, order: SumOrder) -> bytes:
        """Has a worker add one chunk up.

        Raises:
            BadAddendError: a site's chunk cannot be added; names the site.
            ResourceError: a file cannot be read, or the worker died; trying again may help.
        """
        async with self._slots:
            worker = self._idle.pop() if self._idle else await self._start()
            try:
                answer = await self._ask(worker, order)
            except BaseException:
                # Cut in the middle of an answer: the rest of it must not be taken for the next one's.
                await self._end(worker)
                raise
            self._idle.append(worker)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def close(self) -> None:
        """Ends all workers."""
        self._idle.clear()
        await asyncio.gather(*(self._end(worker) for worker in tuple(self._all)))

    async def _start(self) -> asyncio.subprocess.Process:
        try:
            worker = await asyncio.create_subprocess_exec(
                *_COMMAND,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                # The workers are the unit of parallelism; and Ctrl-C in the server's terminal is for the server.
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                start_new_session=True,
            )
        except OSError as error:
            raise ResourceError(f"cannot start a worker process: {error.strerror}") from error
        self._all.add(worker)
        return worker

    async def _ask(self, worker: asyncio.subprocess.Process, order: SumOrder) -> bytes | Exception:
        if worker.stdin is None or worker.stdout is None:
            raise AssertionError("workers are started with pipes")
        try:
            worker.stdin.write(write_order(order))
            await worker.stdin.drain()
            line = await worker.stdout.readline()
            if not line:
                raise ResourceError("a worker process was killed", "the system may be short of memory")
            head = json.loads(line)
            if "bytes" not in head:
                return BadAddendError(head["bad"], head["message"]) if "bad" in head else ResourceError(head["error"])
            size = int(head["bytes"])
            if size > MAX_CHUNK_BYTES:
                raise ResourceError(f"a worker answered with {size} bytes, at most {MAX_CHUNK_BYTES} are expected")
            return await worker.stdout.readexactly(size)
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            raise ResourceError("a worker process was killed", "the system may be short of memory") from error

    async def _end(self, worker: asyncio.subprocess.Process) -> None:
        self._all.discard(worker)
        with contextlib.suppress(ProcessLookupError):
            worker.kill()
        # Shielded: whoever is cancelled here must not leave a process that nobody waits for.
        await asyncio.shield(asyncio.create_task(_reap(worker)))


async def _reap(worker: asyncio.subprocess.Process) -> None:
    if worker.stdin is not None:
        worker.stdin.close()
    await worker.wait()
