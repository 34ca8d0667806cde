"""Builds MONAI's engines from a configuration: the evaluator of `validate` and the trainer of `train`."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from ignite.engine import Engine
from monai.handlers import LrScheduleHandler
from torch import nn

from fedhe.config.mmar import Mmar
from fedhe.config.mmar_schema import Component
from fedhe.errors import TrainingError
from fedhe.training.components import Builder, Place
from fedhe.training.data import Team, build_chain, build_data
from fedhe.training.devices import use_amp
from fedhe.training.files import read_weights
from fedhe.training.listeners import Losses, build_handlers, build_metrics, figures, first_loss
from fedhe.training.tensors import load_pretrained


@dataclass(frozen=True)
class Evaluation:
    """A built evaluator.

    Attributes:
        engine: a SupervisedEvaluator.
        main_metric: name of the metric that the job is judged by.
        labels: names of all metrics, main metric first.
        samples: validation cases at this site.
    """

    engine: Any
    main_metric: str
    labels: tuple[str, ...]
    samples: int

    def figures(self) -> dict[str, float]:
        """The finite metrics of the last run, main metric first; a vector becomes one figure per element."""
        return figures(self.labels, self.engine.state.metrics)


@dataclass(frozen=True)
class Training:
    """A built trainer.

    Attributes:
        engine: a SupervisedTrainer.
        samples: training cases at this site.
        losses: filled while it runs.
    """

    engine: Any
    samples: int
    losses: Losses


def build_model(mmar: Mmar) -> nn.Module:
    """Builds the network on the CPU, with its pretrained weights where the configuration names some.

    Raises:
        TrainingError: wrong component or weights; with the place.
    """
    builder, key = Builder(mmar, "train"), ("train", "model")
    component = mmar.config.train.model
    model = builder.build(component, key, "model")
    if not isinstance(model, nn.Module):
        raise TrainingError(f"{mmar.place(key)}: expected a torch.nn.Module, got a {type(model).__name__}")
    if component.weights is not None:
        path = mmar.folder / component.weights
        load_pretrained(model, read_weights(path), f"{mmar.place((*key, 'weights'))}: {path.name}")
    return model


def build_evaluator(mmar: Mmar, model: nn.Module, team: Team) -> Evaluation | None:
    """Builds the evaluator; None where the configuration has no section `validate`.

    Raises:
        TrainingError: a component is wrong or there are no cases; with the place.
    """
    section = mmar.config.validate_
    if section is None:
        return None
    builder = Builder(mmar, "validate", {"model": model, "network": model, "device": team.device, **_team(team)})
    data = build_data(builder, section, team)
    builder.objects["inferer"] = inferer = builder.build(section.inferer, ("validate", "inferer"), "inferer")
    chain = build_chain(builder, section, "post_transforms")
    metrics = build_metrics(builder, section.metrics, "val_")
    main = next((label for label, metric in metrics if metric[1]), metrics[0][0])
    ordered = {label: metric[0] for label, metric in sorted(metrics, key=lambda pair: pair[0] != main)}
    engine = builder.build(
        section.evaluator,
        ("validate", "evaluator"),
        "engine",
        given={
            "device": team.device, "val_data_loader": data.loader, "network": model, "inferer": inferer,
            "postprocessing": chain, "key_val_metric": {main: ordered[main]},
            "additional_metrics": {label: metric for label, metric in ordered.items() if label != main},
            "val_handlers": build_handlers(builder, section.handlers, team, lambda _output: None),
            "amp": use_amp(mmar.config, team.device),
        },
    )  # fmt: skip
    _require_engine(builder, engine, ("validate", "evaluator"))
    return Evaluation(engine, main, tuple(ordered), data.samples)


def build_trainer(
    mmar: Mmar,
    model: nn.Module,
    team: Team,
    *,
    epochs: int,
    done_epochs: int = 0,
    evaluation: Evaluation | None = None,
    handlers: Sequence[Any] = (),
) -> Training:
    """Builds the trainer.

    Args:
        mmar: the job.
        model: on the team's device.
        team: whose share of the cases to read.
        epochs: to train.
        done_epochs: of earlier rounds; the learning rate's schedule goes on from there.
        evaluation: what `@evaluator` refers to.
        handlers: attached after the job's own.

    Raises:
        TrainingError: a component is wrong or there are no cases; with the place.
    """
    section = mmar.config.train
    objects = {"model": model, "network": model, "device": team.device, **_team(team)}
    if evaluation is not None:
        objects["evaluator"] = evaluation.engine
    builder = Builder(mmar, "train", objects)
    loss = builder.build(section.loss, ("train", "loss"), "loss")
    if not callable(loss):
        raise TrainingError(f"{mmar.place(('train', 'loss'))}: expected a loss function, got a {type(loss).__name__}")
    loss = loss.to(team.device) if isinstance(loss, nn.Module) else loss
    optimizer = _optimizer(builder, section.optimizer, model)
    inferer = builder.build(section.inferer, ("train", "inferer"), "inferer")
    builder.objects |= {"loss": loss, "optimizer": optimizer, "inferer": inferer}
    data = build_data(builder, section, team)
    own = [*handlers, *_schedule(builder, done_epochs, len(data.loader))]
    chain = build_chain(builder, section, "post_transforms")
    metrics = build_metrics(builder, section.metrics, "train_")
    losses = Losses()
    component, key = section.trainer, ("train", "trainer")
    engine = builder.build(
        _without_max_epochs(mmar, component, epochs),
        key,
        "engine",
        given={
            "device": team.device, "max_epochs": epochs, "train_data_loader": data.loader, "network": model,
            "optimizer": optimizer, "loss_function": loss, "inferer": inferer, "postprocessing": chain,
            "key_train_metric": {label: metric[0] for label, metric in metrics[:1]} or None,
            "additional_metrics": {label: metric[0] for label, metric in metrics[1:]} or None,
            "train_handlers": [losses, *build_handlers(builder, section.handlers, team, first_loss), *own],
            "amp": use_amp(mmar.config, team.device),
        },
    )  # fmt: skip
    _require_engine(builder, engine, key)
    return Training(engine, data.samples, losses)


def _team(team: Team) -> dict[str, Any]:
    return {"rank": team.rank, "world_size": team.size}


def _optimizer(builder: Builder, component: Component, model: nn.Module) -> torch.optim.Optimizer:
    key: Place = ("train", "optimizer")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise TrainingError(f"{builder.mmar.place(key)}: the model has no parameter to train")
    optimizer = builder.build(component, key, "optimizer", given={"params": trained})
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TrainingError(f"{builder.mmar.place(key)}: expected an optimizer, got a {type(optimizer).__name__}")
    return optimizer


def _schedule(builder: Builder, done_epochs: int, iterations: int) -> list[LrScheduleHandler]:
    """The learning rate's schedule, moved on to where earlier rounds left it."""
    component = builder.mmar.config.train.lr_scheduler
    if component is None or component.disabled:
        return []
    key: Place = ("train", "lr_scheduler")
    scheduler = builder.build(component, key, "scheduler", given={"optimizer": builder.objects["optimizer"]})
    if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise TrainingError(
            f"{builder.mmar.place((*key, 'name'))}: ReduceLROnPlateau needs a metric of all rounds",
            "use a schedule over epochs, such as StepLR or CosineAnnealingLR",
        )
    by_epoch = component.step == "epoch"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*before.*optimizer.step.*")
        for _ in range(done_epochs if by_epoch else done_epochs * iterations):
            scheduler.step()
    builder.objects["lr_scheduler"] = scheduler
    listed = any(handler.name == "LrScheduleHandler" for handler in builder.mmar.config.train.handlers)
    return [] if listed else [LrScheduleHandler(scheduler, print_lr=False, epoch_level=by_epoch)]


def _without_max_epochs(mmar: Mmar, component: Component, epochs: int) -> Component:
    given = component.args.get("max_epochs")
    if given is None:
        return component
    if given not in {mmar.config.epochs, epochs}:
        place = mmar.place(("train", "trainer", "args", "max_epochs"))
        raise TrainingError(f"{place}: expected '{{epochs}}', got {given}", "leave it out: epochs decides")
    args = {name: value for name, value in component.args.items() if name != "max_epochs"}
    return component.model_copy(update={"args": args})


def _require_engine(builder: Builder, engine: Any, key: Place) -> None:
    if not isinstance(engine, Engine):
        raise TrainingError(f"{builder.mmar.place(key)}: expected an engine, got a {type(engine).__name__}")
