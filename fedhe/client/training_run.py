"""One task of a job's training process: what it is asked, what it may see, and what is believed of its answer."""

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from fedhe.client.durable import disk_errors
from fedhe.client.job_intake import refresh_code
from fedhe.client.note import Note, seal_applied_note
from fedhe.client.trainer import Progress, TrainingFailedError, visible_gpus
from fedhe.client.work import Work
from fedhe.config.policy import SitePolicy
from fedhe.config.trainer import MODEL_FILE, TrainRequest, TrainResult
from fedhe.errors import TrainingError
from fedhe.model.flatten import gather
from fedhe.model.layout import Layout, TensorSpec
from fedhe.wire import federation

MAX_TRIES = 3  # of a process that was killed; one that fails by itself would fail again
MAX_MODEL_FILE_BYTES = 64 * 1024**3

Task = Literal["init", "train", "validate"]


async def initial_model(work: Work) -> tuple[Layout, NDArray[np.float32]]:
    """The layout of the job's model and its first weights, (n_values,) float32.

    Raises:
        TrainingError: job code failed, or left values that are not finite.
        ResourceError: disk full or read-only.
    """
    result = await run_task(work, "init", 0, model=None)
    layout = layout_of(work, result)
    return layout, read_model(work, "init", layout)


async def validation_note(work: Work, version: int) -> bytes:
    """Validates a model and seals its metrics for the other sites and the admins who hold the key.

    Raises:
        TrainingError: job code failed.
        ResourceError: disk full or read-only.
    """
    result = await run_task(work, "validate", version, model=version)
    note = Note(0, {}, result.metrics, result.main_metric)
    return seal_applied_note(work.site.group_key, work.site.project, work.job_id, version, work.site.name, note)


async def run_task(work: Work, task: Task, round_: int, *, model: int | None) -> TrainResult:
    """Runs a task when it is this job's turn, and again if the process was killed from outside.

    Args:
        work: the job.
        task: init, train or validate.
        round_: given to the job's code; with the seed it decides all randomness.
        model: version of the model to start from, None for `init`.

    Returns:
        The result; `read_model` gives the model that it left, unless the task was `validate`.

    Raises:
        TrainingError: job code failed, or left no valid result.
        NotNowError: this site does not hold that model.
        ResourceError: disk full or read-only.
    """
    if model is not None:
        work.check_model(model)  # the file is what its digest says
    work.tell(_ACTIVITY[task], 0.0, "waiting for another job's training")
    async with work.site.training:
        for attempt in range(1, MAX_TRIES + 1):
            policy = work.site.policy()
            refresh_code(work)
            request = _request(work, task, round_, model, policy)
            work.tell(_ACTIVITY[task], 0.0, "starting")
            try:
                result = await work.site.process.run(
                    request,
                    work=work.folder.training,
                    log=work.folder.logs / f"{task}-{round_}.log",
                    policy=policy,
                    told=lambda progress, policy=policy: _told(work, progress, policy),  # type: ignore[misc]
                )
            except TrainingFailedError as error:
                if not error.may_pass or attempt == MAX_TRIES:
                    raise
                work.log("warning", f"{error.message}; starting it again ({attempt + 1} of {MAX_TRIES})")
            else:
                return result
    raise TrainingError(f"{task}: no process ended well")


def layout_of(work: Work, result: TrainResult) -> Layout:
    """The layout that a training process told, with this job's field widths.

    Raises:
        TrainingError: it is not a layout.
    """
    precision = work.job().federation.precision
    try:
        return Layout(
            tuple(
                TensorSpec(
                    name=tensor.name,
                    shape=tuple(tensor.shape),
                    dtype=tensor.dtype,
                    statistic=tensor.statistic,
                    field_bits=precision.statistics_bits if tensor.statistic else precision.field_bits,
                )
                for tensor in result.layout
            )
        )
    except TrainingError as error:
        raise TrainingError(f"the training process told a layout that cannot be: {error.message}") from error


def require_layout(own: Layout, expected: Layout) -> None:
    """Makes sure that this site's job code builds the federation's model.

    Raises:
        TrainingError: names the first tensor that differs.
    """
    if own.digest != expected.digest:
        raise TrainingError(
            f"this site's model (here) differs from the federation's (there): {own.difference(expected)}",
            "all sites must build the same model: compare library versions and environment.json values",
        )


_ACTIVITY = {
    "init": federation.ACTIVITY_TRAINING,
    "train": federation.ACTIVITY_VALIDATING,  # it validates the global model first
    "validate": federation.ACTIVITY_VALIDATING,
}


def _request(work: Work, task: Task, round_: int, model: int | None, policy: SitePolicy) -> TrainRequest:
    job = work.job().federation
    return TrainRequest(
        task=task,
        mmar=work.folder.mmar,
        overrides=policy.overrides(),
        model_in=None if model is None else work.folder.model_file(model),
        output=_output(work),
        seed=job.seed,
        round=round_,
        epochs=job.local_epochs,
        gpus=visible_gpus(policy),
        exclude=tuple(job.exclude),
        share_statistics=job.statistics == "share",
        local_state=work.folder.local_state,
    )


def _told(work: Work, progress: Progress, policy: SitePolicy) -> None:
    validating = progress.activity == "validating"
    detail = f"epoch {progress.epoch} of {progress.epochs}" if progress.epochs else ""
    if policy.share_metrics and progress.loss is not None:
        detail += f", loss {progress.loss:.4g}"
    activity = federation.ACTIVITY_VALIDATING if validating else federation.ACTIVITY_TRAINING
    work.tell(activity, progress.fraction, detail)


def read_model(work: Work, task: Task, layout: Layout) -> NDArray[np.float32]:
    """The model that a training process left, (n_values,) float32; one tensor more than that is in memory.

    Raises:
        TrainingError: no model file, or not one of the layout's tensors, all of them finite.
        ResourceError: disk full or read-only.
    """
    path = _output(work) / MODEL_FILE
    try:
        with disk_errors(path):
            size = path.stat().st_size
            if size > MAX_MODEL_FILE_BYTES:
                raise TrainingError(
                    f"{task}: expected a model file of at most {MAX_MODEL_FILE_BYTES} bytes, got {size}"
                )
            with safe_open(path, framework="numpy") as file:
                names = frozenset(file.keys())
                if strange := {kind for name in names if (kind := file.get_slice(name).get_dtype()) != "F32"}:
                    raise TrainingError(f"{task}: expected a model of float32 tensors, got {min(strange)}")
                return gather(names, file.get_tensor, layout)
    except SafetensorError as error:
        raise TrainingError(f"{task}: the training process left no valid model file ({error})") from error


def _output(work: Work) -> Path:
    return work.folder.training / "output"
