"""Model files of the training process: safetensors written atomically, and what stays at a site between rounds."""

import os
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError  # only to name the error that torch raises for a file with code in it

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedhe.errors import ConfigError, ResourceError, TrainingError


def write_tensors(tensors: Mapping[str, Tensor], path: Path, *, metadata: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file that is either whole or not there.

    Raises:
        ResourceError: disk full or read-only.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(dict(tensors), partial, metadata=dict(metadata or {}))
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise ResourceError(f"{path}: cannot be written: {error}", "check free space and permissions") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Reads a safetensors file.

    Raises:
        ConfigError: not there, or not a safetensors file.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: not a model file: {error}", "check the path") from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """Reads published weights: safetensors, or a PyTorch file that holds tensors only.

    A PyTorch file may be the state_dict itself, or hold it under `state_dict` or `model`.

    Raises:
        TrainingError: not there, holds code, or holds no state_dict.
    """
    if path.suffix == ".safetensors":
        try:
            return read_tensors(path)
        except ConfigError as error:
            raise TrainingError(error.message, error.hint) from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise TrainingError(
            f"{path}: holds more than tensors, and that may be code", "save only the model's state_dict in it"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise TrainingError(f"{path}: not a PyTorch file: {error}") from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise TrainingError(f"{path}: expected a state_dict, got a {type(content).__name__}")
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def read_local_state(path: Path, *, before_round: int | None) -> dict[str, Tensor]:
    """What stayed at the site; empty before the first round that trained here.

    A round that is trained a second time (its process or the agent was killed) must start from the state that it
    started from the first time, so the state before the newest is kept, too.

    Args:
        path: the newest state's file.
        before_round: take the newest state of an earlier round; None takes the newest.

    Raises:
        ConfigError: a file is damaged.
    """
    for candidate in (path, _previous(path)):
        if candidate.exists() and (before_round is None or _round(candidate) < before_round):
            return read_tensors(candidate)
    return {}


def write_local_state(tensors: Mapping[str, Tensor], path: Path, *, round_: int) -> None:
    """Keeps what stays at the site after a round, and the state of the round before.

    Raises:
        ConfigError: the present file is damaged.
        ResourceError: disk full or read-only.
    """
    coming = path.with_name(path.name + ".next")
    write_tensors(tensors, coming, metadata={"round": str(round_)})
    try:
        if path.exists() and _round(path) < round_:
            path.replace(_previous(path))
        coming.replace(path)
    except OSError as error:
        raise ResourceError(f"{path}: cannot be written: {error}", "check free space and permissions") from error


def _previous(path: Path) -> Path:
    return path.with_name(path.name + ".previous")


def _round(path: Path) -> int:
    try:
        with safe_open(path, framework="pt") as file:
            return int((file.metadata() or {}).get("round", "0"))
    except (OSError, SafetensorError, ValueError) as error:
        raise ConfigError(f"{path}: not a file of local state: {error}", "move it away to start without it") from error
