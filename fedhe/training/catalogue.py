"""Which library offers what under a name: the modules that each kind of component is looked up in."""

import importlib
import inspect
from collections.abc import Callable, Iterator
from functools import cache
from types import ModuleType
from typing import Any, Literal, cast

from fedhe.config.mmar_variables import nearest
from fedhe.errors import TrainingError

Kind = Literal[
    "model", "loss", "optimizer", "scheduler", "transform", "dataset", "dataloader", "inferer", "handler", "metric",
    "engine", "nested",
]  # fmt: skip

# The first module that has a name wins: MONAI's DataLoader seeds random transforms, torch's does not.
_MODULES: dict[str, tuple[str, ...]] = {
    "model": ("monai.networks.nets",),
    "loss": ("monai.losses", "torch.nn"),
    "optimizer": ("torch.optim", "monai.optimizers"),
    "scheduler": ("torch.optim.lr_scheduler", "monai.optimizers"),
    "transform": ("monai.transforms",),
    "dataset": ("monai.data", "torch.utils.data"),
    "dataloader": ("monai.data", "torch.utils.data"),
    "inferer": ("monai.inferers",),
    "handler": ("monai.handlers", "ignite.handlers"),
    "metric": ("monai.handlers", "ignite.metrics"),
    "engine": ("monai.engines",),
}
_MODULES["nested"] = tuple(dict.fromkeys(module for modules in _MODULES.values() for module in modules))


def find(name: str, kind: Kind) -> Callable[..., Any]:
    """The class or function of that name.

    Args:
        name: such as DiceLoss.
        kind: decides which modules are searched.

    Raises:
        TrainingError: there is none; with the nearest name, or the kind that does have it.
    """
    for module in _modules(kind):
        found: Any = getattr(module, name, None)
        if not name.startswith("_") and _is_component(found):
            return cast("Callable[..., Any]", found)
    elsewhere = next((place for place in _MODULES if place != "nested" and name in _names(place)), None)
    where = ", ".join(_MODULES[kind])
    if elsewhere is not None:
        hint = f"{name} is a {elsewhere}, not a {kind}"
    else:
        hint = nearest(name, _names(kind)) or "for code of your own write 'path' instead of 'name'"
    raise TrainingError(f"unknown {kind} '{name}' (searched {where})", hint)


@cache
def _modules(kind: str) -> tuple[ModuleType, ...]:
    return tuple(importlib.import_module(name) for name in _MODULES[kind])


@cache
def _names(kind: str) -> frozenset[str]:
    return frozenset(_public(_modules(kind)))


def _public(modules: tuple[ModuleType, ...]) -> Iterator[str]:
    for module in modules:
        yield from (name for name in dir(module) if name[0] != "_" and _is_component(getattr(module, name, None)))


def _is_component(value: Any) -> bool:
    return inspect.isclass(value) or inspect.isfunction(value)
