"""Many sites in one process: the product's own agents, each with its kit, its certificate and its connection.

Only training is made up: `round_trainer.py` runs in a thread of this process in the place of a training process.
"""

import asyncio
import contextlib
import io
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from round_trainer import perform

from fedhe.client.agent import serve
from fedhe.client.log_book import LogBook
from fedhe.client.trainer import Progress, TrainingProcess
from fedhe.config.policy import SitePolicy
from fedhe.config.trainer import TrainRequest, TrainResult, read_result
from fedhe.trust.installation import load_installation


class ThreadTrainer(TrainingProcess):
    """Trains in a thread: two hundred sites would start as many processes at once."""

    async def run(
        self, request: TrainRequest, *, work: Path, log: Path, policy: SitePolicy, told: Callable[[Progress], None]
    ) -> TrainResult:
        """Runs one task to its end; see `TrainingProcess.run`."""
        del work, log, policy, told
        request.output.mkdir(parents=True, exist_ok=True)
        await asyncio.to_thread(perform, request.model_dump(mode="json"))
        return read_result(request.output)


@contextlib.asynccontextmanager
async def agents(folders: Iterable[Path]):
    """Runs the agents of installed sites; yields what each of them logs, by the site's name."""
    logs: dict[str, io.StringIO] = {}
    running = []
    try:
        for folder in folders:
            installed = load_installation(folder, role_prefix="site", now=time.time())
            logs[installed.name] = io.StringIO()
            book = LogBook(folder / "logs", stream=logs[installed.name])
            running.append(asyncio.create_task(serve(installed, book, process=ThreadTrainer()), name=installed.name))
        yield logs
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
