"""Chooses the devices of a task and makes its randomness repeatable."""

import hashlib
import os
import warnings
from collections.abc import Sequence

import torch
from monai.utils import set_determinism

from fedhe.config.mmar_schema import MmarConfig
from fedhe.errors import TrainingError


def choose_devices(config: MmarConfig, gpus: Sequence[int] | None) -> tuple[torch.device, ...]:
    """The devices to train on, one process each; says in a warning where it is less than the job asks for.

    Args:
        config: its use_gpu and multi_gpu.
        gpus: GPUs that the site allows; None for all that are visible.

    Raises:
        TrainingError: the site allows a GPU that is not there.
    """
    cpu = (torch.device("cpu"),)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not config.use_gpu or (gpus is not None and not gpus):
        return cpu
    if gpus is not None and (missing := [number for number in gpus if number >= count]):
        raise TrainingError(
            f"GPU {missing[0]} is not there: {count} are visible", "check gpus in the site's policy.yml"
        )
    allowed = list(range(count)) if gpus is None else list(gpus)
    if not allowed:
        warnings.warn("use_gpu: no GPU is visible, training on the CPU", stacklevel=2)
        return cpu
    if config.multi_gpu and len(allowed) == 1:
        warnings.warn("multi_gpu: one GPU is visible, training on that one", stacklevel=2)
    return tuple(torch.device("cuda", number) for number in (allowed if config.multi_gpu else allowed[:1]))


def use_amp(config: MmarConfig, device: torch.device) -> bool:
    """Whether to use mixed precision; MONAI's engines have it for GPUs."""
    if config.amp and device.type != "cuda":
        warnings.warn("amp: mixed precision needs a GPU, training in full precision", stacklevel=2)
        return False
    return config.amp


def seed_everything(config: MmarConfig, seed: int, *parts: object) -> int:
    """Seeds torch, NumPy, Python and MONAI's transforms from a seed and what the randomness is for.

    Returns:
        The 32-bit seed that was derived.
    """
    text = "/".join(["fedhe/v1/training-seed", str(seed), *map(str, parts)])
    derived = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
    repeatable = bool(config.determinism)
    if repeatable:
        # cuBLAS needs a fixed workspace for repeatable results; it reads this when it is first used.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    set_determinism(seed=derived)
    torch.use_deterministic_algorithms(repeatable, warn_only=True)
    torch.backends.cudnn.deterministic = repeatable
    torch.backends.cudnn.benchmark = config.cudnn_benchmark
    return derived
