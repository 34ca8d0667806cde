"""A module's state as the tensors that the federation shares, and those that stay at the site."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy

from fedhe.config.mmar_variables import hint
from fedhe.config.trainer import TensorInfo
from fedhe.errors import TrainingError

_SHARED = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True)
class Inventory:
    """Which of a module's tensors go where.

    Attributes:
        layout: the shared tensors, in the module's order.
        local: names of those that stay: integer buffers, excluded ones, statistics where they are not shared.
    """

    layout: tuple[TensorInfo, ...]
    local: tuple[str, ...]


def take_inventory(model: nn.Module, *, exclude: Sequence[str] = (), share_statistics: bool = True) -> Inventory:
    """Sorts a module's tensors.

    Args:
        model: any module; every process that builds it gets the same answer.
        exclude: glob patterns of names that stay local.
        share_statistics: whether running statistics of normalisation layers are shared.

    Raises:
        TrainingError: a tensor that cannot be averaged, a pattern that matches nothing, or nothing left to share.
    """
    state = _state(model)
    for pattern in exclude:
        if not any(fnmatchcase(name, pattern) for name in state):
            raise TrainingError(f"exclude: no tensor is named like '{pattern}'", hint(pattern, state, noun="tensors"))
    statistics = _statistics(model)
    layout: list[TensorInfo] = []
    local: list[str] = []
    for name, tensor in state.items():
        statistic = name in statistics
        stays = any(fnmatchcase(name, pattern) for pattern in exclude) or (statistic and not share_statistics)
        if stays or not (tensor.is_floating_point() or tensor.is_complex()):
            local.append(name)
            continue
        if tensor.dtype not in _SHARED:
            raise TrainingError(
                f"tensor '{name}': expected float16, bfloat16, float32 or float64, got {_dtype(tensor)}",
                "list it under exclude in config_fed.yml to keep it at the site",
            )
        layout.append(TensorInfo(name=name, shape=tuple(tensor.shape), dtype=_dtype(tensor), statistic=statistic))
    if not layout:
        raise TrainingError(f"the model has no tensor to share: {len(state)} in all, {len(local)} of them stay local")
    return Inventory(tuple(layout), tuple(local))


def export(model: nn.Module, inventory: Inventory) -> dict[str, Tensor]:
    """The shared tensors as float32 on the CPU, each with memory of its own.

    Raises:
        TrainingError: a value that is not finite; names the tensor.
    """
    state = _state(model)
    exported = {}
    for info in inventory.layout:
        tensor = state[info.name].detach().to("cpu", torch.float32, copy=True).contiguous()
        if not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise TrainingError(
                f"tensor '{info.name}': {bad} of {tensor.numel()} values are not finite after training",
                "lower the learning rate, or clip gradients",
            )
        exported[info.name] = tensor
    return exported


def export_local(model: nn.Module, inventory: Inventory) -> dict[str, Tensor]:
    """The tensors that stay, in their own types, on the CPU."""
    state = _state(model)
    return {name: state[name].detach().to("cpu", copy=True).contiguous() for name in inventory.local}


def load_shared(model: nn.Module, inventory: Inventory, tensors: Mapping[str, Tensor], source: str) -> None:
    """Puts the federation's tensors into the module.

    Args:
        model: the module.
        inventory: of the same module.
        tensors: float32, exactly the layout's names and shapes.
        source: where they come from, for errors.

    Raises:
        TrainingError: a tensor is missing, left over or of another shape; names the first.
    """
    names = [info.name for info in inventory.layout]
    if missing := [name for name in names if name not in tensors]:
        raise TrainingError(f"{source}: tensor '{missing[0]}' of this job's model is missing", _DIFFERS)
    if extra := sorted(set(tensors) - set(names)):
        raise TrainingError(f"{source}: tensor '{extra[0]}' is not in this job's model", _DIFFERS)
    put = {}
    for info in inventory.layout:
        tensor = tensors[info.name]
        _require_shape(info.name, tensor, info.shape, source)
        # The sum's rounding can leave a variance of a dead channel a step below zero, whose root is no number.
        put[info.name] = tensor.clamp(min=0) if info.name.endswith("running_var") and info.statistic else tensor
    _copy_into(model, put)


def load_local(model: nn.Module, inventory: Inventory, tensors: Mapping[str, Tensor], source: str) -> None:
    """Puts what stayed at the site into the module.

    Raises:
        TrainingError: a tensor that this model does not keep, or of another shape.
    """
    state = _state(model)
    for name, tensor in tensors.items():
        if name not in inventory.local:
            raise TrainingError(f"{source}: tensor '{name}' does not stay local in this job", _DIFFERS)
        _require_shape(name, tensor, tuple(state[name].shape), source)
    _copy_into(model, tensors)


def load_pretrained(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Puts all of a published state_dict into the module.

    Raises:
        TrainingError: names or shapes differ.
    """
    state = _state(model)
    for name, tensor in state.items():
        if name not in tensors:
            raise TrainingError(
                f"{source}: tensor '{name}' of the model is missing", hint(name, tensors, noun="tensors")
            )
        _require_shape(name, tensors[name], tuple(tensor.shape), source)
    if extra := sorted(set(tensors) - set(state)):
        raise TrainingError(f"{source}: tensor '{extra[0]}' is not in the model", hint(extra[0], state, noun="tensors"))
    _copy_into(model, tensors)


_DIFFERS = "all sites must build the same model: compare library versions and environment.json values"


def _require_shape(name: str, tensor: Tensor, shape: tuple[int, ...], source: str) -> None:
    if tuple(tensor.shape) != shape:
        raise TrainingError(f"{source}: tensor '{name}': expected shape {shape}, got {tuple(tensor.shape)}", _DIFFERS)


def _copy_into(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    state = _state(model)
    with torch.no_grad():
        for name, tensor in tensors.items():
            state[name].copy_(tensor)


def _state(model: nn.Module) -> dict[str, Tensor]:
    """The module's tensors by name; extra state of other types is no tensor and is left alone."""
    state = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    for name, tensor in state.items():
        if is_lazy(tensor):
            raise TrainingError(
                f"tensor '{name}' has no shape before the first batch", "build the model without lazy layers"
            )
    return state


def _statistics(model: nn.Module) -> frozenset[str]:
    names = set()
    for prefix, module in model.named_modules():
        if isinstance(module, _NormBase):
            names |= {f"{prefix}.{buffer}" if prefix else buffer for buffer in _STATISTICS}
    return frozenset(names)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
