"""What the runs of the precision study amount to: Dice, differences by seed, errors and bytes, for each precision."""

import math
import os
import platform
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import psutil
import torch
from precision_federation import FLOAT, Study, conditions_of, final_model, label

LATE_VERSIONS = 3
"""Dice is averaged over so many last versions of the model: one version's jumps from round to round."""
# Student's t, two-sided 95 %, for 1 to 11 degrees of freedom; then the normal distribution's.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201)


def summarise(study: Study, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The report: `machine`, `study`, `precisions` (float32 first, then by width) and `runs`."""
    ordered = sorted(runs, key=lambda run: (run["bits"], run["seed"]))
    widths = sorted({run["bits"] for run in ordered})
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "study": conditions_of(study) | {"seeds": sorted({run["seed"] for run in ordered})},
        "precisions": [_precision(study, ordered, bits) for bits in widths],
        "runs": ordered,
    }


def machine() -> dict[str, Any]:
    """What kind of machine this is, without its name."""
    return {
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "processor": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": "cpu",
    }


def curves(runs: Sequence[dict[str, Any]], bits: int) -> np.ndarray:
    """(seeds, versions) Dice of one precision, mean over the sites, seeds in ascending order."""
    mine = sorted((run for run in runs if run["bits"] == bits), key=lambda run: run["seed"])
    return np.array([run["dice"] for run in mine]).mean(axis=2)


def interval95(values: Sequence[float]) -> float | None:
    """Half the width of the mean's 95 % confidence interval; None for a single value."""
    if len(values) < 2:
        return None
    t = _T[len(values) - 2] if len(values) - 2 < len(_T) else 1.96
    return t * statistics.stdev(values) / math.sqrt(len(values))


def _precision(study: Study, runs: Sequence[dict[str, Any]], bits: int) -> dict[str, Any]:
    mine = [run for run in runs if run["bits"] == bits]
    rounds = [round_ for run in mine for round_ in run["rounds"]]
    values = mine[0]["values"]
    dice = curves(runs, bits)
    late = dice[:, -LATE_VERSIONS:].mean(axis=1)
    differences = late - curves(runs, FLOAT)[:, -LATE_VERSIONS:].mean(axis=1)
    half = interval95(differences.tolist())
    return {
        "bits": bits,
        "label": label(bits),
        "dice": dice.mean(axis=0).tolist(),
        "dice_final": float(dice[:, -1].mean()),
        "dice_late": float(late.mean()),
        "dice_late_sd": float(late.std(ddof=1)) if len(late) > 1 else None,
        "difference": float(differences.mean()),
        "difference_by_seed": differences.tolist(),
        "difference_interval95": half,
        "difference_largest": float(np.abs(dice - curves(runs, FLOAT)).max()),
        "differs": bits != FLOAT and half is not None and abs(float(differences.mean())) > half,
        "max_error": max(round_["max_error"] for round_ in rounds),
        "max_error_statistics": max(round_["max_error_statistics"] for round_ in rounds),
        "noise_to_change": statistics.mean(round_["rms_error"] / round_["rms_change"] for round_ in rounds),
        "max_drift": max(_drift(study, run["seed"], bits) for run in mine),
        "bytes_up": rounds[-1]["bytes_up"] / values,
        "bytes_down": rounds[-1]["bytes_down"] / values,
    }


def _drift(study: Study, seed: int, bits: int) -> float:
    """The largest difference between a weight of a run's last model and that of the seed's float32 run."""
    mine, plain = final_model(study, seed, bits), final_model(study, seed, FLOAT)
    statistic = ("running_mean", "running_var")
    return max(float(np.abs(mine[name] - plain[name]).max()) for name in mine if not name.endswith(statistic))
