"""Training in one process, as the only one or as one of a team: round by round, or alone with validation on the way."""

from collections.abc import Callable
from dataclasses import dataclass, field

from ignite.engine import Engine, Events
from monai.handlers import ValidationHandler
from torch import distributed, nn

from fedhe.config.trainer import BEST_MODEL_FILE, MODEL_FILE
from fedhe.training.data import Team
from fedhe.training.devices import seed_everything
from fedhe.training.engines import Evaluation, build_evaluator, build_trainer
from fedhe.training.files import write_local_state, write_tensors
from fedhe.training.progress import Report, follow
from fedhe.training.tensors import export, export_local
from fedhe.training.work import Work, guarded


@dataclass
class Trained:
    """What a training found out.

    Attributes:
        samples: training cases at this site.
        losses: mean loss of each epoch.
        main_metric: name of the metric that the job is judged by.
        validations: metrics after each epoch that was validated, 1-based.
        best_epoch: the one with the best main metric.
    """

    samples: int = 0
    losses: list[float] = field(default_factory=list)
    main_metric: str | None = None
    validations: dict[int, dict[str, float]] = field(default_factory=dict)
    best_epoch: int | None = None


def train(work: Work, team: Team, wrap: Callable[[nn.Module], nn.Module] | None = None) -> Trained:
    """Trains; the process of rank 0 writes the model and what stays at the site.

    Args:
        work: the task.
        team: this process among those that train together.
        wrap: makes the model one that keeps in step with the team's.

    Raises:
        TrainingError: a component, the data or the training failed.
        ResourceError: disk full or read-only.
    """
    request, config, first = work.request, work.mmar.config, team.rank == 0
    # Each process of a team augments in another way; alone, the seed does not depend on how many GPUs there are.
    seed_everything(config, request.seed, "train", request.round, *([team.rank] if team.rank else []))
    model = work.model.to(team.device)
    network = wrap(model) if wrap is not None else model
    trained = Trained()
    evaluation = None
    if work.alone or any("@evaluator" in handler.args.values() for handler in config.train.handlers):
        # Not the wrapped model: the wrapper waits for the others at each batch, and their shares may be smaller.
        evaluation = build_evaluator(work.mmar, model, team)
    handlers = []
    if work.alone and evaluation is not None:
        _watch(work, evaluation, trained, team)
        if not any(handler.name == "ValidationHandler" for handler in config.train.handlers):
            handlers = [ValidationHandler(config.num_interval_per_valid, evaluation.engine)]
    if first:
        work.tell(Report("training", 0.0, 1, work.epochs))
    training = build_trainer(
        work.mmar,
        network,
        team,
        epochs=work.epochs,
        done_epochs=max(0, request.round - 1) * work.epochs,
        evaluation=evaluation,
        handlers=handlers,
    )
    if first:
        follow(training.engine, work.tell, work.clock, "training", training.losses.mean)
    guarded(work.mmar, "train", training.engine.run)
    if work.alone and evaluation is not None and work.epochs not in trained.validations:
        guarded(work.mmar, "validate", lambda: evaluation.engine.run(work.epochs))
    trained.samples, trained.losses = training.samples, list(training.losses.epochs)
    if first:
        write_tensors(export(model, work.inventory), request.output / MODEL_FILE)
        if request.local_state is not None:
            write_local_state(export_local(model, work.inventory), request.local_state, round_=request.round)
    return trained


def validate(work: Work, team: Team) -> tuple[dict[str, float], str | None]:
    """Metrics of the task's model on the validation cases, main metric first, and its name.

    Raises:
        TrainingError: a component, the data or a metric failed.
    """
    if work.mmar.config.validate_ is None:
        return {}, None
    work.tell(Report("validating", 0.0))
    seed_everything(work.mmar.config, work.request.seed, "validate", work.request.round)
    evaluation = build_evaluator(work.mmar, work.model.to(team.device), team)
    if evaluation is None:
        return {}, None
    follow(evaluation.engine, work.tell, work.clock, "validating", lambda: None)
    guarded(work.mmar, "validate", evaluation.engine.run)
    figures = guarded(work.mmar, "validate", evaluation.figures)
    return figures, evaluation.main_metric if evaluation.main_metric in figures else None


def _watch(work: Work, evaluation: Evaluation, trained: Trained, team: Team) -> None:
    """After each validation during training: notes the metrics, and keeps the weights that were best."""
    trained.main_metric = evaluation.main_metric
    best: list[float] = []
    first = team.rank == 0

    def same_statistics(_engine: Engine) -> None:
        """Each process of a team has running statistics of its own; those of the first are exported."""
        for buffer in work.model.buffers() if team.size > 1 else ():
            distributed.broadcast(buffer, 0)

    def validated(engine: Engine) -> None:
        epoch = engine.state.epoch  # MONAI's ValidationHandler gives the evaluator the trainer's epoch
        figures = evaluation.figures()
        trained.validations[epoch] = figures
        value = figures.get(evaluation.main_metric)
        if value is not None and (not best or evaluation.engine.metric_cmp_fn(value, best[0])):
            best[:] = [value]
            trained.best_epoch = epoch
            if first:
                write_tensors(export(work.model, work.inventory), work.request.output / BEST_MODEL_FILE)
        if first:
            work.tell(Report("validating", 1.0, epoch, work.epochs, metrics=figures))

    evaluation.engine.add_event_handler(Events.STARTED, same_statistics)
    evaluation.engine.add_event_handler(Events.COMPLETED, validated)
