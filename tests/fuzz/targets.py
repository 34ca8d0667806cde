"""All fuzz targets by name, and the seeds of each; what an input means is said where the target is."""

import targets_config
import targets_he
import targets_trust
import targets_wire
from claims import Target, hold

__all__ = ["MODULES", "SEEDS", "TARGETS", "hold"]

MODULES = (targets_he, targets_wire, targets_trust, targets_config)
TARGETS: dict[str, Target] = {name: target for module in MODULES for name, target in module.TARGETS.items()}


SEEDS: dict[str, list[bytes]] = {name: inputs for module in MODULES for name, inputs in module.seeds().items()}
"""Inputs made from valid values, which each target's reader takes; the fuzzer goes on from them."""
