"""The precision study's chart: Dice over rounds, and by how much each precision differs from float32."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from precision_federation import FLOAT, label
from precision_summary import curves

mpl.use("Agg")
from matplotlib import pyplot as plt  # after the backend was chosen
from matplotlib.ticker import MaxNLocator

# Okabe and Ito's palette, told apart with any colour vision; markers and dashes tell lines apart without colour.
_LOOKS = (
    {"color": "#000000", "marker": "o", "linestyle": "-", "linewidth": 3.0, "markersize": 8},
    {"color": "#E69F00", "marker": "s", "linestyle": "-", "linewidth": 2.0, "markersize": 6},
    {"color": "#0072B2", "marker": "^", "linestyle": "--", "linewidth": 1.8, "markersize": 6},
    {"color": "#009E73", "marker": "D", "linestyle": "-.", "linewidth": 1.6, "markersize": 5},
    {"color": "#CC79A7", "marker": "v", "linestyle": ":", "linewidth": 1.8, "markersize": 6},
    {"color": "#56B4E9", "marker": "P", "linestyle": (0, (5, 1, 1, 1)), "linewidth": 1.6, "markersize": 6},
)


def draw(report: dict[str, Any], path: Path) -> None:
    """Writes the chart as PNG."""
    runs, widths = report["runs"], [precision["bits"] for precision in report["precisions"]]
    plain = curves(runs, FLOAT)
    seeds, versions = plain.shape
    rounds = np.arange(versions)
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(8.5, 8.5), sharex=True, height_ratios=(3, 2), layout="constrained"
    )
    if seeds > 1:
        low, high = plain.min(axis=0), plain.max(axis=0)
        top.fill_between(rounds, low, high, color="0.85", label=f"float32, from lowest to highest of {seeds} seeds")
    largest = 0.1
    for bits, look in zip(widths, _LOOKS, strict=False):
        dice = curves(runs, bits)
        top.plot(rounds, dice.mean(axis=0), label=label(bits), **look)
        if bits == FLOAT:
            continue
        difference = 100 * (dice - plain)
        largest = max(largest, float(np.abs(difference).max()))
        bottom.plot(rounds, difference.mean(axis=0), label=f"{label(bits)}, mean", **look)
        for seed in difference:
            bottom.plot(rounds, seed, color=look["color"], linewidth=0.6, alpha=0.6)
    bottom.set_ylim(-1.5 * largest, 1.15 * largest)  # with room for the legend below
    bottom.axhline(0, color="black", linewidth=0.8)
    top.set_ylabel("Dice, mean over sites and seeds")
    top.set_title(f"{report['study']['job']}: {report['study']['sites']} sites, {seeds} seed{'s' * (seeds > 1)}")
    top.legend(loc="lower right")
    bottom.set_ylabel("points (0.01 of Dice) against\nfloat32 of the same seed")
    bottom.set_xlabel("round (0: before training); thin lines: single seeds")
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    bottom.legend(loc="lower center", ncols=3, fontsize=9)
    for axes in (top, bottom):
        axes.grid(visible=True, color="0.9")
        axes.set_axisbelow(True)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
