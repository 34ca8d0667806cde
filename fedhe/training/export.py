"""Writes a model for use outside of fedhe: a PyTorch checkpoint that holds tensors only."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedhe.errors import ResourceError


def write_pytorch(tensors: Mapping[str, NDArray[Any]], path: Path) -> None:
    """Writes a state_dict that `torch.load(path, weights_only=True)` reads.

    Args:
        tensors: arrays under their state_dict names.
        path: usually ends in .pt; an existing file is replaced as a whole.

    Raises:
        ResourceError: disk full, read-only, or no such folder.
    """
    state = {name: torch.from_numpy(np.array(array, order="C")) for name, array in tensors.items()}
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        raise ResourceError(f"{path}: cannot be written: {error}", "check free space and permissions") from error
