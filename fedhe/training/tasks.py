"""The three tasks of a training process: init, train and validate."""

import math
from dataclasses import dataclass

import torch

from fedhe.config.trainer import MODEL_FILE, TrainRequest, TrainResult
from fedhe.training.data import Team
from fedhe.training.devices import choose_devices
from fedhe.training.engines import build_evaluator, build_trainer
from fedhe.training.files import write_tensors
from fedhe.training.learning import Trained, train, validate
from fedhe.training.parallel import train_in_parallel
from fedhe.training.progress import Clock, Tell
from fedhe.training.tensors import export
from fedhe.training.work import open_work


def run_task(request: TrainRequest, tell: Tell, clock: Clock) -> TrainResult:
    """Performs a task; leaves the model's file in the output folder, but does not write `result.json`.

    Args:
        request: what to do.
        tell: receives progress.
        clock: seconds, monotonic.

    Raises:
        ConfigError: the job's folder or a file of the request is wrong.
        TrainingError: a component, the data or the training failed; with its place where it is known.
        ResourceError: disk full or read-only.
    """
    start = clock()
    work = open_work(request, tell, clock)
    devices = choose_devices(work.mmar.config, request.gpus)
    metrics: dict[str, float] = {}
    main: str | None = None
    trained = Trained()
    if request.task == "init":
        write_tensors(export(work.model, work.inventory), request.output / MODEL_FILE)
    if request.task == "validate" or (request.task == "train" and request.validate_first and not work.alone):
        metrics, main = validate(work, Team(devices[0]))
    if request.task == "train":
        trained = train(work, Team(devices[0])) if len(devices) == 1 else train_in_parallel(request, devices, tell)
    if trained.validations:
        metrics = trained.validations[max(trained.validations)]
        main = trained.main_metric if trained.main_metric in metrics else None
    return TrainResult(
        samples=trained.samples,
        metrics=metrics,
        main_metric=main,
        train_loss=trained.losses[-1] if trained.losses else None,
        seconds=clock() - start,
        layout=work.inventory.layout,
        epoch_losses=tuple(trained.losses),
        validations=trained.validations,
        best_epoch=trained.best_epoch,
    )


@dataclass(frozen=True)
class Soundness:
    """What a job and this site's data amount to.

    Attributes:
        samples: training cases.
        validation_cases: validation cases, 0 without a section `validate`.
        tensors: that the federation would share.
        parameters: values in them.
    """

    samples: int
    validation_cases: int
    tensors: int
    parameters: int


def check_task(request: TrainRequest) -> Soundness:
    """Builds everything that a `train` task needs, on the CPU, and trains nothing.

    Raises:
        ConfigError: the configuration is wrong.
        TrainingError: a component or the data is wrong; with its place.
    """
    work = open_work(request, lambda _report: None, lambda: 0.0)
    team = Team(torch.device("cpu"))
    evaluation = build_evaluator(work.mmar, work.model, team)
    training = build_trainer(work.mmar, work.model, team, epochs=work.epochs, evaluation=evaluation)
    return Soundness(
        samples=training.samples,
        validation_cases=0 if evaluation is None else evaluation.samples,
        tensors=len(work.inventory.layout),
        parameters=sum(math.prod(tensor.shape) for tensor in work.inventory.layout),
    )
