"""Runs the real agent of a site with a training process that takes no time; `--plain` leaves encryption out.

python benchmarks/round_site.py [--plain] FOLDER
"""

import asyncio
import contextlib
import signal
import sys
import time
from pathlib import Path

from fedhe.client.agent import serve
from fedhe.client.log_book import LogBook
from fedhe.client.trainer import TrainingProcess
from fedhe.trust.installation import load_installation

TRAINER = Path(__file__).with_name("round_trainer.py")


async def run(folder: Path) -> None:
    """Serves until SIGTERM."""
    installed = load_installation(folder, role_prefix="site", now=time.time())
    process = TrainingProcess((sys.executable, str(TRAINER)))
    agent = asyncio.ensure_future(serve(installed, LogBook(folder / "logs"), process=process))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, agent.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await agent


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if "--plain" in arguments:
        import plain_client

        plain_client.leave_encryption_out()
        arguments.remove("--plain")
    asyncio.run(run(Path(arguments[0])))
