"""The demo's two pictures: how the metric rose and what it cost, and what the model sees before and after."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

mpl.use("Agg")  # no display is needed

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch

INK = "#20303c"
MUTED = "#8a97a3"
SITE_COLOURS = ("#0f7b8a", "#e08a1e", "#a3457d", "#5a7d2a", "#3b5fa0")
LABEL_COLOURS = ("#2fb5a6", "#f2a33a", "#d1495b", "#6c8ef5")
DOTS_PER_INCH = 150
FLOAT32_BYTES = 4
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


@dataclass(frozen=True)
class Picture:
    """One plane of one case, ready to draw; all arrays have the same two axes, first one to the right.

    Attributes:
        title: which case it is.
        image: brightness.
        truth: reference labels, 0 for background.
        predictions: labels of each model, in the order of the figure's columns.
        dice: each model's mean Dice over the whole volume.
    """

    title: str
    image: NDArray[np.float32]
    truth: NDArray[np.int64]
    predictions: tuple[NDArray[np.int64], ...]
    dice: tuple[float, ...]


def draw_curves(report: Mapping[str, Any], path: Path) -> None:
    """Draws the metric of every site over the rounds, the bytes per value, and the seconds per round."""
    with mpl.rc_context(STYLE):
        figure, (metric, traffic, seconds) = plt.subplots(
            1, 3, figsize=(12.5, 4.2), width_ratios=(2.2, 1, 1.3), layout=ConstrainedLayoutEngine(wspace=0.06)
        )
        _metric(metric, report)
        _traffic(traffic, report)
        _seconds(seconds, report)
        exact = "exactly equal" if report["exact"] else "DIFFERENT FROM"
        same = len(set(report["fingerprints"].values())) == 1
        figure.suptitle(
            f"{report['job']}: {len(report['sites'])} sites, {report['parameters']:,} values in each encrypted update. "
            f"Decrypted sums {exact} to plaintext sums; {'one model at all sites' if same else 'MODELS DIFFER'}.",
            x=0.01, ha="left", fontsize=11,
        )  # fmt: skip
        figure.savefig(path, dpi=DOTS_PER_INCH)
        plt.close(figure)


def _metric(axes: Axes, report: Mapping[str, Any]) -> None:
    rounds = report["rounds"]
    numbers = [0, *(entry["round"] for entry in rounds)]
    by_site = [report["baseline"] or {}, *(entry["metric"] or {} for entry in rounds)]
    for site, colour in zip(report["sites"], _cycle(SITE_COLOURS, len(report["sites"])), strict=True):
        values = _or_nan([metrics.get(site) for metrics in by_site])
        axes.plot(numbers, values, color=colour, marker="o", markersize=4, linewidth=1.5, label=site)
    means = _or_nan([report["baseline_metric"], *(entry["metric_mean"] for entry in rounds)])
    axes.plot(numbers, means, color=INK, linewidth=3, alpha=0.25, zorder=0, label="mean")
    # The first mean stands above all sites' points, the last one below them.
    for place, outermost, offset in ((0, max, 9), (-1, min, -20)):
        if by_site[place]:
            axes.annotate(
                f"{means[place]:.2f}", (numbers[place], outermost(by_site[place].values())), xytext=(0, offset),
                textcoords="offset points", ha="center", fontsize=11, fontweight="bold",
            )  # fmt: skip
    axes.set_title("Quality at each site, on cases that never train")
    axes.set_xlabel("round (0: before training)")
    axes.set_ylabel((report["main_metric"] or "metric").replace("val_", "").replace("_", " ").replace("dice", "Dice"))
    axes.set_xticks(numbers)
    axes.set_ylim(0, 1)
    axes.grid(axis="y", color=MUTED, alpha=0.25)
    axes.legend(frameon=False, loc="lower right")


def _traffic(axes: Axes, report: Mapping[str, Any]) -> None:
    per_value = report["bytes_per_value"]
    up = np.array([per_value["up"], FLOAT32_BYTES])
    down = np.array([per_value["down"], FLOAT32_BYTES])
    axes.bar([0, 1], up, color=[SITE_COLOURS[0], MUTED], width=0.6)
    axes.bar([0, 1], down, bottom=up, color=[SITE_COLOURS[0], MUTED], alpha=0.55, width=0.6)
    for x in (0, 1):
        axes.text(x, up[x] / 2, f"up\n{up[x]:.2f}", ha="center", va="center", color="white", fontsize=9)
        axes.text(x, up[x] + down[x] / 2, f"down\n{down[x]:.2f}", ha="center", va="center", color="white", fontsize=9)
        axes.text(x, up[x] + down[x] + 0.15, f"{up[x] + down[x]:.1f}", ha="center", fontweight="bold")
    axes.set_xticks([0, 1], ["encrypted\n(measured)", "plain float32\n(for comparison)"])
    axes.set_title("Bytes per value and round")
    axes.spines["left"].set_visible(False)
    axes.set_yticks([])


def _seconds(axes: Axes, report: Mapping[str, Any]) -> None:
    rounds = report["rounds"]
    values = [entry["seconds"] for entry in rounds]
    axes.bar([entry["round"] for entry in rounds], values, color=SITE_COLOURS[0], width=0.7)
    axes.axhline(fmean(values), color=INK, linewidth=1, linestyle=":")
    axes.set_xticks([entry["round"] for entry in rounds])
    axes.set_xlabel("round")
    axes.set_ylabel("seconds")
    axes.set_title(f"Time of a round (mean {fmean(values):.1f} s)")


def draw_segmentations(
    pictures: Sequence[Picture], models: Sequence[str], labels: Mapping[int, str], note: str, path: Path
) -> None:
    """Draws one row per picture: the image, the reference labels, and what each model makes of it.

    Args:
        pictures: the rows.
        models: the columns of predictions, as many as each picture has.
        labels: names of the labels above 0.
        note: honest words about the data, below the figure.
        path: PNG to write.
    """
    columns = ["MRI", "reference", *models]
    heights = [picture.image.shape[1] / picture.image.shape[0] for picture in pictures]
    width = 3.1
    size = (width * len(columns) + 0.9, width * sum(heights) + 0.42 * len(pictures) + 1.0)
    with mpl.rc_context(STYLE):
        figure, grid = plt.subplots(
            len(pictures), len(columns), figsize=size, height_ratios=heights, squeeze=False, layout="constrained"
        )
        for row, (axes, picture) in enumerate(zip(grid, pictures, strict=True)):
            shown = (None, picture.truth, *picture.predictions)
            titles = ["", "", *(f"Dice {value:.2f}" for value in picture.dice)]
            for place, title, overlay in zip(axes, titles, shown, strict=True):
                _plane(place, picture.image, overlay, max(labels))
                place.set_xlabel(title, fontsize=10, labelpad=3)
            axes[0].set_ylabel(picture.title, fontsize=10, fontweight="bold")
            if row == 0:
                for place, name in zip(axes, columns, strict=True):
                    place.set_title(name, loc="center")
        figure.legend(
            handles=[
                Patch(color=colour, label=labels[number])
                for number, colour in zip(sorted(labels), _cycle(LABEL_COLOURS, len(labels)), strict=True)
            ],
            loc="outside upper right", ncols=len(labels), frameon=False,
        )  # fmt: skip
        figure.supxlabel(note, fontsize=8.5, color=MUTED, x=0.01, ha="left")
        figure.savefig(path, dpi=DOTS_PER_INCH)
        plt.close(figure)


def _plane(axes: Axes, image: NDArray[np.float32], overlay: NDArray[np.int64] | None, highest: int) -> None:
    low, high = np.percentile(image, [1, 99.5])
    axes.imshow(image.T, cmap="gray", vmin=low, vmax=high, origin="lower", interpolation="nearest")
    if overlay is not None:
        shown = np.ma.masked_equal(overlay, 0).T
        colours = ListedColormap(_cycle(LABEL_COLOURS, highest))
        axes.imshow(
            shown, cmap=colours, vmin=1, vmax=max(2, highest), origin="lower", alpha=0.75, interpolation="nearest"
        )
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _cycle(colours: Sequence[str], count: int) -> list[str]:
    return [colours[index % len(colours)] for index in range(count)]


def _or_nan(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]
