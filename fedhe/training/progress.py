"""What a task tells while it runs: activity, fraction, epoch and loss."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from ignite.engine import Engine, Events

TELL_INTERVAL = 0.25
"""Seconds between two reports of the same activity; its first and last are always told."""


@dataclass(frozen=True)
class Report:
    """One report of progress.

    Attributes:
        activity: `validating` or `training`.
        fraction: done of the activity, 0 to 1.
        epoch: under way, 1-based; 0 where it does not apply.
        epochs: of the activity.
        loss: mean over the epoch so far, or None.
        metrics: of a validation that ended, main metric first; empty otherwise.
    """

    activity: str
    fraction: float
    epoch: int = 0
    epochs: int = 0
    loss: float | None = None
    metrics: dict[str, float] | None = None

    def to_event(self) -> dict[str, Any]:
        """The JSON object of one line on the process's standard output."""
        event = {"event": "progress", **asdict(self)}
        return {name: value for name, value in event.items() if value is not None and name != "metrics"}


Tell = Callable[[Report], None]
Clock = Callable[[], float]


def follow(engine: Engine, tell: Tell, clock: Clock, activity: str, loss: Callable[[], float | None]) -> None:
    """Reports an engine's iterations.

    Args:
        engine: trainer or evaluator.
        tell: receives the reports.
        clock: seconds, monotonic.
        activity: `validating` or `training`.
        loss: the epoch's mean loss so far.
    """
    last = [clock() - TELL_INTERVAL]
    training = activity == "training"

    def iteration_completed(engine: Engine) -> None:
        state = engine.state
        total = (state.epoch_length or 0) * ((state.max_epochs or 1) if training else 1)
        if clock() - last[0] < TELL_INTERVAL and state.iteration < total:
            return
        last[0] = clock()
        fraction = min(1.0, state.iteration / total) if total else 0.0
        epochs = state.max_epochs or 0
        tell(Report(activity, fraction, state.epoch if training else 0, epochs if training else 0, loss()))

    engine.add_event_handler(Events.ITERATION_COMPLETED, iteration_completed)
