"""`fedhe-train`: trains one MMAR on this computer, without a federation, with the code that the sites run."""

import contextlib
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from fedhe.cli.output import print_json, print_table
from fedhe.cli.run import EXIT_CODES_HELP, run
from fedhe.config.mmar import CONFIG, ENVIRONMENT, load_mmar
from fedhe.config.trainer import BEST_MODEL_FILE, MODEL_FILE, TrainRequest, TrainResult, write_result
from fedhe.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    from fedhe.training.progress import Report

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")


def main() -> None:
    """Entry point of the command."""
    run(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fedhe-train {installed_version('fedhe')}")
        raise typer.Exit


@app.command(no_args_is_help=True, epilog=EXIT_CODES_HELP)
def train(
    changes: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="More values for --set.", show_default=False),
    ] = None,
    *,
    mmar: Annotated[Path, typer.Option("--mmar", "-m", metavar="FOLDER", help="The job's folder.")],
    config: Annotated[
        str, typer.Option("--config", "-c", metavar="FILE", help="In the folder, or in its config folder.")
    ] = CONFIG,
    environment: Annotated[
        str, typer.Option("--environment", "-e", metavar="FILE", help="In the folder, or in its config folder.")
    ] = ENVIRONMENT,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A value that wins over both files: a variable (DATA_ROOT=/data), a key at the top (epochs=5), or a "
            "place inside (train.optimizer.args.lr=0.001). More may follow, or give the option again.",
        ),
    ] = None,
    model: Annotated[
        Path | None, typer.Option("--model", metavar="FILE", help="Start from this safetensors file.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="For the model. Default: models in the job's folder."),
    ] = None,
    gpus: Annotated[str, typer.Option("--gpus", metavar="LIST", help="auto, none, or numbers such as 0,1.")] = "auto",
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Decides all randomness. Default: the job's random_seed.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Check the job and its data by building all of it; train nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Trains one job on this computer, without a federation, with the code that the sites run.

    Example: fedhe-train -m examples/hippocampus --set DATA_ROOT=/data/Task04_Hippocampus epochs=5
    """
    given = (*(settings or ()), *(changes or ()))
    mmar_seed = load_mmar(mmar, config=config, environment=environment, settings=given).config.random_seed
    folder = output if output is not None else mmar / "models"
    request = TrainRequest(
        task="train",
        mmar=mmar,
        config=config,
        environment=environment,
        settings=given,
        model_in=model,
        output=folder,
        seed=mmar_seed if seed is None else seed,
        gpus=_gpus(gpus),
    )
    if check:
        _check(request, as_json=as_json)
        return
    result = _perform(request)
    values = sum(math.prod(tensor.shape) for tensor in result.layout)
    files = _write_checkpoints(folder, result)
    if as_json:
        print_json(
            {
                **result.model_dump(mode="json", exclude={"layout"}),
                "parameters": values,
                "files": [str(file) for file in files],
            }
        )
        return
    _print_epochs(result)
    typer.echo(f"{result.samples} cases, {result.seconds:.1f} s; written: {', '.join(map(str, files))}")


def _check(request: TrainRequest, *, as_json: bool) -> None:
    """Builds everything that the task would need, and says what it found."""
    from fedhe.training.tasks import check_task  # noqa: PLC0415 - torch and MONAI take seconds to import

    with _quiet():
        found = check_task(request)
    if as_json:
        print_json({"ok": True, **asdict(found)})
        return
    typer.echo(
        f"{request.mmar} is sound: {found.samples} training cases, {found.validation_cases} validation cases, "
        f"a model of {found.tensors} tensors with {found.parameters:,} values"
    )


def _perform(request: TrainRequest) -> TrainResult:
    """Runs the task with a progress bar and leaves its files in the output folder."""
    from fedhe.training.tasks import run_task  # noqa: PLC0415 - torch and MONAI take seconds to import

    try:
        request.output.mkdir(parents=True, exist_ok=True)
        with _quiet(), _bar() as tell:
            result = run_task(request, tell, time.monotonic)
        write_result(result, request.output)
    except OSError as error:
        raise ResourceError(f"{error.filename or request.output}: {error.strerror or error}") from error
    return result


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What the job's code prints must not mix with this command's output."""
    from fedhe.training.warn import one_line_warnings  # noqa: PLC0415 - with the rest of training

    one_line_warnings()
    with contextlib.redirect_stdout(sys.stderr):
        yield


@contextlib.contextmanager
def _bar() -> Iterator[Any]:
    console = Console(stderr=True)
    progress = Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeRemainingColumn(),
        console=console, disable=not console.is_terminal, transient=True,
    )  # fmt: skip
    task = progress.add_task("starting", total=1.0)

    def tell(report: "Report") -> None:
        text = f"epoch {report.epoch} of {report.epochs}" if report.epochs else report.activity
        if report.loss is not None:
            text += f", loss {report.loss:.4f}"
        if report.activity == "training":
            progress.update(task, completed=report.fraction, description=text)
        if report.metrics and not console.is_terminal:
            figures = ", ".join(f"{name} {value:.4f}" for name, value in report.metrics.items())
            console.print(f"{text}: {figures}", highlight=False, soft_wrap=True)

    with progress:
        yield tell


def _write_checkpoints(folder: Path, result: TrainResult) -> list[Path]:
    """The models once more as PyTorch checkpoints; returns all files of models."""
    from safetensors.numpy import load_file  # noqa: PLC0415 - only needed at the end

    from fedhe.training.export import write_pytorch  # noqa: PLC0415 - torch takes seconds to import

    files = []
    for name in (MODEL_FILE, BEST_MODEL_FILE) if result.best_epoch is not None else (MODEL_FILE,):
        path = folder / name
        write_pytorch(load_file(path), path.with_suffix(".pt"))
        files += [path, path.with_suffix(".pt")]
    return files


def _print_epochs(result: TrainResult) -> None:
    names = list(result.metrics)
    rows = []
    for epoch, loss in enumerate(result.epoch_losses, start=1):
        figures = result.validations.get(epoch, {})
        best = "best" if epoch == result.best_epoch else ""
        cells = [f"{figures[name]:.4f}" if name in figures else None for name in names]
        rows.append([epoch, f"{loss:.4f}", *cells, best])
    print_table("epochs", ["epoch", "loss", *names, ""], rows)


def _gpus(text: str) -> tuple[int, ...] | None:
    if text == "auto":
        return None
    if text == "none":
        return ()
    numbers = text.split(",")
    if not all(number.strip().isdecimal() for number in numbers):
        raise ConfigError(f"--gpus: expected auto, none or numbers such as 0,1, got '{text}'")
    return tuple(int(number) for number in numbers)
