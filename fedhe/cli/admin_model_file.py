"""Writes an opened model to a file: safetensors or a PyTorch checkpoint; whole or not at all, readable by its owner."""

import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from fedhe.errors import ConfigError, ResourceError

SAFETENSORS = (".safetensors",)
PYTORCH = (".pt", ".pth")
SEALED = (".sealed",)
SUFFIXES = (*SAFETENSORS, *PYTORCH, *SEALED)


def check_target(path: Path, *, force: bool, suffixes: tuple[str, ...] = SUFFIXES) -> None:
    """Refuses a file that could not be written, before anything is downloaded for it.

    Raises:
        ConfigError: its suffix says no known form, its folder does not exist, or it exists and `force` is not given.
    """
    if path.suffix not in suffixes:
        raise ConfigError(
            f"{path}: expected a name that ends in {', '.join(suffixes)}, got '{path.suffix or path.name}'",
            ".safetensors and .pt hold the opened model, .sealed what the server stores"
            if SEALED[0] in suffixes
            else None,
        )
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: there is no folder {path.parent}", "make it first")
    if path.exists() and not force:
        raise ConfigError(f"{path} exists", "give another name, or --force to replace it")


def write_model(path: Path, tensors: Mapping[str, NDArray[np.float32]], about: Mapping[str, str]) -> None:
    """Writes tensors in the form that `path`'s suffix says; `about` becomes the metadata of a safetensors file.

    Raises:
        ResourceError: disk full or not writable, or torch is needed and not installed.
    """
    if path.suffix in PYTORCH:
        write_whole(path, lambda partial: _write_pytorch(dict(tensors), partial))
    else:
        # not ascontiguousarray, which makes a list of a scalar
        ordered = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
        write_whole(path, lambda partial: save_file(ordered, partial, dict(about)))


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Lets `write` fill a new file beside `path`, then puts it in place with mode 0600.

    Raises:
        ResourceError: disk full or not writable; `path` is as it was.
    """
    partial: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        partial = Path(name)
        write(partial)
        # a writer may have made a file of its own in place of ours
        partial.chmod(0o600)
        _sync(partial)
        partial.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise ResourceError(f"{path}: {error.strerror or error}", "free space, or give another folder") from error
    finally:
        if partial is not None:
            with suppress(FileNotFoundError):
                partial.unlink()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_pytorch(tensors: dict[str, NDArray[np.float32]], path: Path) -> None:
    try:
        # torch takes seconds to load and is not needed for anything else here; an admin may not even have it
        from fedhe.training.export import write_pytorch  # noqa: PLC0415  # see above
    except ImportError as error:
        raise ResourceError(
            f"{path.suffix} files need torch, which is not installed here ({error})",
            "pip install 'fedhe[client]', or give a name that ends in .safetensors",
        ) from error
    write_pytorch(tensors, path)
