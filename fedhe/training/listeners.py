"""What listens to an engine: metrics, the job's handlers, and the mean loss; and the figures that metrics yield."""

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from monai.handlers import from_engine

from fedhe.config.mmar_schema import Component, HandlerComponent, MetricComponent
from fedhe.errors import TrainingError
from fedhe.training.components import Builder, Place
from fedhe.training.data import Team

Listener = Literal["metric", "handler"]


@dataclass
class Losses:
    """A trainer's mean loss over each epoch; a loss that is no number stops the training.

    Attributes:
        epochs: means of the epochs that ended.
    """

    epochs: list[float] = field(default_factory=list)
    _sum: float = 0.0
    _count: int = 0

    def attach(self, engine: Engine) -> None:
        """Listens to a trainer."""
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self._loss_completed)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch_completed)

    def mean(self) -> float | None:
        """Mean over the running epoch, or over the last one between epochs."""
        return self._sum / self._count if self._count else self.epochs[-1] if self.epochs else None

    def _loss_completed(self, engine: Engine) -> None:
        loss: Any = engine.state.output
        value = float(loss["loss"].detach())
        if value - value != 0:  # neither inf nor NaN
            raise TrainingError(
                f"the loss became {value} in iteration {engine.state.iteration} of epoch {engine.state.epoch}",
                "lower the learning rate, clip gradients, or look at the images of this batch",
            )
        self._sum += value
        self._count += 1

    def _epoch_completed(self, _engine: Engine) -> None:
        if self._count:
            self.epochs.append(self._sum / self._count)
        self._sum, self._count = 0.0, 0


def first_loss(output: Any) -> Any:
    """The loss in an engine's output, as handlers that print one number take it."""
    return from_engine("loss", first=True)(output)


def build_metrics(
    builder: Builder, components: Sequence[MetricComponent], prefix: str
) -> list[tuple[str, tuple[Any, bool]]]:
    """Builds a section's metrics.

    Returns:
        For each its label, and the metric with whether it says that it is the main one.

    Raises:
        TrainingError: a metric is wrong, or two have the same label; with the place.
    """
    built: list[tuple[str, tuple[Any, bool]]] = []
    for index, component in enumerate(components):
        if component.disabled:
            continue
        key: Place = (builder.section, "metrics", index)
        metric = _listening(builder, component, key, "metric", from_engine(["pred", "label"]))
        label = component.log_label or prefix + _snake(component.label.rpartition(".")[2])
        if label in dict(built):
            raise TrainingError(
                f"{builder.mmar.place(key)}: there is a metric '{label}' already", "give this one a log_label"
            )
        built.append((label, (metric, component.is_key_metric)))
    if components and not built:
        raise TrainingError(f"{builder.mmar.place((builder.section, 'metrics'))}: all metrics are disabled")
    return built


def build_handlers(
    builder: Builder, components: Sequence[HandlerComponent], team: Team, output: Callable[[Any], Any]
) -> list[Any]:
    """Builds a section's handlers.

    Args:
        builder: of the section.
        components: the configuration.
        team: handlers of other ranks are left out.
        output: what handlers read of the engine's output where the configuration does not say.

    Raises:
        TrainingError: a handler is wrong; with the place.
    """
    return [
        _listening(builder, component, (builder.section, "handlers", index), "handler", output)
        for index, component in enumerate(components)
        if not component.disabled and component.rank in {None, team.rank}
    ]


def _listening(
    builder: Builder, component: Component, key: Place, kind: Literal["metric", "handler"], output: Callable[[Any], Any]
) -> Any:
    """Builds a metric or handler; what it reads of an engine's output is given as keys, or `output` by default."""
    keys = component.args.get("output_transform")
    if isinstance(keys, (str, list)) and not str(keys).startswith(("@", "$", "lambda")):
        args = {name: value for name, value in component.args.items() if name != "output_transform"}
        component = component.model_copy(update={"args": args})
        output = from_engine(keys, first=keys == "loss")  # one number for a batch; all else is one for each case
    built = builder.build(component, key, kind, defaults={"output_transform": output})
    if not callable(getattr(built, "attach", None)):
        raise TrainingError(
            f"{builder.mmar.place(key)}: expected a {kind} with a method attach(engine), got a {type(built).__name__}"
        )
    return built


def _flat(label: str, value: Any) -> list[tuple[str, float]]:
    """A metric's value as named numbers."""
    if isinstance(value, dict):
        return [pair for name, item in value.items() for pair in _flat(f"{label}_{name}", item)]
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().tolist()
    elif hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        if len(value) == 1:
            return _flat(label, value[0])
        return [pair for index, item in enumerate(value) for pair in _flat(f"{label}_{index}", item)]
    return [] if value is None else [(label, float(value))]


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def figures(labels: Sequence[str], metrics: Mapping[str, Any]) -> dict[str, float]:
    """The finite figures of an engine's metrics, in the order of `labels`; a vector becomes one figure per element."""
    finite: dict[str, float] = {}
    for label in labels:
        for name, value in _flat(label, metrics.get(label)):
            if value - value == 0:
                finite[name] = value
            else:
                warnings.warn(f"metric {name} is {value} and is left out", stacklevel=2)
    return finite
