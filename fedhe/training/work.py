"""What a task works on: the job, the request, and the model with its state put in."""

import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from fedhe.config.mmar import Mmar, load_mmar
from fedhe.config.trainer import TrainRequest
from fedhe.errors import FedheError, TrainingError
from fedhe.training.components import said
from fedhe.training.devices import seed_everything
from fedhe.training.engines import build_model
from fedhe.training.files import read_local_state, read_tensors
from fedhe.training.progress import Clock, Tell
from fedhe.training.tensors import Inventory, load_local, load_shared, take_inventory

T = TypeVar("T")


@dataclass(frozen=True)
class Work:
    """One task under way.

    Attributes:
        request: what was asked.
        mmar: the job.
        model: the network, with the federation's model and the site's local state in it.
        inventory: of the model.
        tell: receives progress.
        clock: seconds, monotonic.
    """

    request: TrainRequest
    mmar: Mmar
    model: nn.Module
    inventory: Inventory
    tell: Tell
    clock: Clock

    @property
    def epochs(self) -> int:
        """Epochs to train."""
        return self.request.epochs or self.mmar.config.epochs

    @property
    def alone(self) -> bool:
        """Whether this is training without a federation, which validates as it goes."""
        return self.request.round == 0


def open_work(request: TrainRequest, tell: Tell, clock: Clock) -> Work:
    """Reads the job, builds its model and puts its state in.

    Raises:
        ConfigError: the configuration or a file of the request is wrong.
        TrainingError: the model cannot be built, or is another than the request's file holds.
    """
    # The task's number of epochs is what {epochs} means in the job.
    epochs = {} if request.epochs is None else {"epochs": request.epochs}
    # The output folder belongs to fedhe in a federation; handlers of the job get a folder beside it.
    checkpoints = request.output if request.round == 0 else request.output.parent / "checkpoints"
    mmar = load_mmar(
        request.mmar,
        config=request.config,
        environment=request.environment,
        overrides={**request.overrides, **epochs},
        settings=request.settings,
        defaults={"MMAR_CKPT_DIR": str(checkpoints)},
    )
    seed_everything(mmar.config, request.seed, "init")
    model = build_model(mmar)
    inventory = take_inventory(model, exclude=request.exclude, share_statistics=request.share_statistics)
    if request.model_in is not None:
        load_shared(model, inventory, read_tensors(request.model_in), request.model_in.name)
    if request.local_state is not None and request.task != "init":
        before = request.round if request.task == "train" else None
        local = read_local_state(request.local_state, before_round=before)
        load_local(model, inventory, local, request.local_state.name)
    return Work(request, mmar, model, inventory, tell, clock)


def guarded(mmar: Mmar, section: str, run: Callable[[], T]) -> T:
    """Runs an engine of a section.

    Raises:
        TrainingError: whatever the job's components raised, with the section's place and the line of the job's code.
    """
    try:
        return run()
    except FedheError:
        raise
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"{mmar.place((section,))}: the GPU's memory is full", "lower batch_size or the size of patches"
        ) from error
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        root = os.path.realpath(mmar.folder) + os.sep
        own = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if os.path.realpath(frame.filename).startswith(root)
        ]
        where = f" ({os.path.realpath(own[-1].filename).removeprefix(root)}:{own[-1].lineno})" if own else ""
        raise TrainingError(f"{mmar.place((section,))}: {said(error)}{where}") from error
