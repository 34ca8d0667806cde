"""Training on several devices at once: one process each, kept in step by torch's DistributedDataParallel."""

import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing, nn
from torch.multiprocessing.spawn import ProcessException, start_processes
from torch.nn.parallel import DistributedDataParallel

from fedhe.config.trainer import TrainRequest
from fedhe.errors import FedheError, TrainingError
from fedhe.training.data import Team
from fedhe.training.learning import Trained, train
from fedhe.training.progress import Report, Tell
from fedhe.training.work import open_work

POLL_SECONDS = 0.2


def train_in_parallel(request: TrainRequest, devices: tuple[torch.device, ...], tell: Tell) -> Trained:
    """Trains with one process per device; the cases are shared out, the gradients averaged.

    Args:
        request: a `train` task.
        devices: all GPUs, or all CPU.
        tell: receives the first process's progress.

    Raises:
        TrainingError: a process failed; the others are ended.
    """
    said: Any = multiprocessing.get_context("spawn").SimpleQueue()
    trained: Trained | None = None
    failure: TrainingError | None = None
    with tempfile.TemporaryDirectory(prefix="fedhe-team-") as folder:
        arguments = (request.model_dump_json(), devices, str(Path(folder) / "meeting-point"), said)
        team = start_processes(  # type: ignore[no-untyped-call]
            _member, arguments, nprocs=len(devices), join=False, start_method="spawn"
        )
        done = False
        while not done or not said.empty():
            if not done:
                try:
                    done = bool(team.join(timeout=POLL_SECONDS))
                except ProcessException as error:  # join has ended the other processes
                    done = True
                    failure = TrainingError(f"multi_gpu: a training process failed: {_last_line(error)}")
                    failure.__cause__ = error
            while not said.empty():
                kind, content = said.get()
                if kind == "report":
                    tell(Report(**content))
                elif kind == "done":
                    trained = Trained(**content)
                else:
                    failure = TrainingError(*content)
                    raise failure
    if failure is not None or trained is None:
        raise failure or TrainingError("multi_gpu: no process said how the training ended")
    return trained


def _member(rank: int, request_json: str, devices: tuple[torch.device, ...], meeting_point: str, said: Any) -> None:
    """One process of the team."""
    request = TrainRequest.model_validate_json(request_json)
    device = devices[rank]
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"

    def wrap(model: nn.Module) -> nn.Module:
        own = [device] if device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=own)

    def tell(report: Report) -> None:
        said.put(("report", asdict(report)))

    try:
        distributed.init_process_group(backend, f"file://{meeting_point}", rank=rank, world_size=len(devices))
        trained = train(open_work(request, tell, time.monotonic), Team(device, rank, len(devices)), wrap)
        if rank == 0:
            said.put(("done", asdict(trained)))
        distributed.barrier()
        distributed.destroy_process_group()
    except FedheError as error:
        said.put(("failed", (error.message, error.hint)))
        sys.exit(error.exit_code)


def _last_line(error: BaseException) -> str:
    return str(error).strip().rpartition("\n")[2]
