"""What the agent asks of a training process, and what the process leaves behind: two JSON files, no keys in either."""

import json
import math
import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from fedhe.config.document import Document, FrozenModel, validate
from fedhe.errors import ConfigError

RESULT_FILE = "result.json"
MODEL_FILE = "model.safetensors"
BEST_MODEL_FILE = "model_best.safetensors"
MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_ROUNDS = 1_000_000
MAX_EPOCHS = 1_000_000
MAX_METRICS = 256
MAX_LAYOUT_TENSORS = 65_536

Gpu = Annotated[int, Field(ge=0, le=1023)]


class TrainRequest(FrozenModel):
    """One task for one training process.

    Attributes:
        task: `init` builds the model and writes its first weights; `train` validates `model_in`, trains from it and
            writes the weights after training; `validate` only validates it.
        mmar: the job's folder.
        config: the training configuration, relative to the job's folder or to its `config` folder.
        environment: the job's per-site values, found likewise.
        overrides: the site's values; they win over everything that the job says.
        settings: `key=value` changes to the configuration, as `fedhe-train --set` takes them.
        model_in: safetensors file of float32 tensors under their state_dict names; None for `init`.
        output: folder for `result.json` and `model.safetensors`.
        seed: with `round`, decides all randomness.
        round: 1-based; 0 for `init` and for training without a federation.
        epochs: local epochs of a `train` task; None takes the configuration's.
        gpus: numbers of the GPUs that may be used; [] for none, None for all that are visible.
        validate_first: whether `train` validates `model_in` before it trains.
        exclude: glob patterns of tensors that stay at the site.
        share_statistics: False keeps the running statistics of normalisation layers at the site, too.
        local_state: safetensors file with what stays at the site between rounds: integer buffers and excluded tensors.
    """

    task: Literal["init", "train", "validate"]
    mmar: Path
    config: str = "config/config_train.json"
    environment: str = "config/environment.json"
    overrides: dict[str, Any] = Field(default_factory=dict)
    settings: tuple[str, ...] = ()
    model_in: Path | None = None
    output: Path
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    round: int = Field(default=0, ge=0, le=MAX_ROUNDS)
    epochs: int | None = Field(default=None, ge=1, le=MAX_EPOCHS)
    gpus: tuple[Gpu, ...] | None = None
    validate_first: bool = True
    exclude: tuple[str, ...] = ()
    share_statistics: bool = True
    local_state: Path | None = None

    @model_validator(mode="after")
    def _has_a_model(self) -> Self:
        if self.task == "validate" and self.model_in is None:
            raise ValueError("model_in: expected a file for task validate, got none")
        return self


class TensorInfo(FrozenModel):
    """One tensor that the federation shares.

    Attributes:
        name: key in the model's state_dict.
        shape: sizes of its dimensions.
        dtype: in the model, such as `float32` or `bfloat16`; files hold float32.
        statistic: a running statistic of a normalisation layer, not a trained weight.
    """

    name: str
    shape: tuple[Annotated[int, Field(ge=0)], ...]
    dtype: str
    statistic: bool


class TrainResult(FrozenModel):
    """What a task found out; the weights are in `model.safetensors` beside it.

    Attributes:
        samples: training cases at this site; 0 where none were read (`init`, `validate`).
        metrics: of `model_in` on the validation cases, main metric first; finite numbers only.
        main_metric: name of the metric that the job is judged by, None where there is none.
        train_loss: mean over the last epoch, None where nothing was trained.
        seconds: of the whole task.
        layout: the tensors in `model.safetensors`, in the model's order.
        epoch_losses: mean loss of each epoch.
        validations: without a federation, the metrics after each epoch that was validated; 1-based epochs.
        best_epoch: the one of them with the best main metric, whose model is in `model_best.safetensors`.
    """

    samples: int = Field(ge=0)
    metrics: dict[str, float] = Field(default_factory=dict, max_length=MAX_METRICS)
    main_metric: str | None = None
    train_loss: float | None = None
    seconds: float = Field(ge=0)
    layout: tuple[TensorInfo, ...] = Field(max_length=MAX_LAYOUT_TENSORS)
    epoch_losses: tuple[float, ...] = ()
    validations: dict[int, dict[str, float]] = Field(default_factory=dict)
    best_epoch: int | None = None

    @field_validator("metrics")
    @classmethod
    def _finite(cls, value: dict[str, float]) -> dict[str, float]:
        if bad := [name for name, number in value.items() if not math.isfinite(number)]:
            raise ValueError(f"expected finite numbers, got {bad[0]}={value[bad[0]]}")
        return value

    @model_validator(mode="after")
    def _main_metric_is_there(self) -> Self:
        if self.main_metric is not None and self.main_metric not in self.metrics:
            raise ValueError(f"main_metric: expected one of {list(self.metrics)}, got '{self.main_metric}'")
        return self


def read_request(path: Path) -> TrainRequest:
    """Reads a request file.

    Raises:
        ConfigError: not there, or not a request.
    """
    return validate(TrainRequest, _read_json(path))


def read_result(output: Path) -> TrainResult:
    """Reads the result that a task left in its output folder.

    Raises:
        ConfigError: not there, or not a result.
    """
    return validate(TrainResult, _read_json(output / RESULT_FILE))


def write_result(result: TrainResult, output: Path) -> None:
    """Writes `result.json` atomically; it is the last file of a task, so its presence means the others are whole."""
    path = output / RESULT_FILE
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(result.model_dump_json(indent=1))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _read_json(path: Path) -> Document:
    """Reads a file that a program wrote: larger than what people write, and without need of line numbers."""
    try:
        if (size := path.stat().st_size) > MAX_FILE_BYTES:
            raise ConfigError(f"{path}: expected at most {MAX_FILE_BYTES} bytes, got {size}")
        return Document(path, json.loads(path.read_bytes()), {(): 1})
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON: {error}") from error
