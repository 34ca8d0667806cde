"""Draws a report's charts as SVG files."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from bench_report import MEGABYTE
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

mpl.use("Agg")
mpl.rcParams["svg.hashsalt"] = "fedhe"  # the same report gives the same bytes

NAMES = {
    "plain": "plain float32",
    "nvflare-he": "NVFlare HE",
    "nvflare-he-mended": "NVFlare HE, mended",
    "nvflare-plain": "NVFlare plain",
}
CHARTS = {
    "benchmark_rounds.svg": "Seconds and CPU seconds of a round by the size of the model",
    "benchmark_bytes.svg": "Bytes and memory by the size of the model",
}


def draw(report: dict[str, Any], folder: Path) -> None:
    """Writes the files that `CHARTS` names."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = _lines(report)
    panels = {
        "benchmark_rounds.svg": (("seconds", "seconds a round", 1.0), ("cpu_seconds", "CPU seconds a round", 1.0)),
        "benchmark_bytes.svg": (
            ("bytes", "bytes per value, up + down", 1.0),
            ("server_peak_rss", "server's peak memory, MB", MEGABYTE),
        ),
    }
    for file, shown in panels.items():
        figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
        for axis, (name, label, unit) in zip(axes, shown, strict=True):
            _panel(axis, lines, name, label, unit)
        axes[0].legend(frameon=False)
        figure.savefig(folder / file, metadata={"Date": None})
        plt.close(figure)


def _lines(report: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Entries of three sites by contender, smallest model first."""
    lines: dict[str, list[dict[str, Any]]] = {}
    measured = [*report["rounds"], *report["plain"], *report["nvflare"]["rounds"]]
    for one in sorted(measured, key=lambda one: one["parameters"]):
        if one["sites"] == 3:
            bytes_moved = (one["bytes_up"] + one["bytes_down"]) / one["parameters"]
            lines.setdefault(one["engine"], []).append(one | {"bytes": bytes_moved})
    return lines


def _panel(axis: Axes, lines: dict[str, list[dict[str, Any]]], name: str, label: str, unit: float) -> None:
    for engine, entries in lines.items():
        style = "--" if engine.startswith("nvflare") else ":" if engine == "plain" else "-"
        axis.plot(
            [one["parameters"] / 1e6 for one in entries],
            [one[name] / unit for one in entries],
            style, marker="o", label=NAMES.get(engine, f"fedhe, {engine}"),
        )  # fmt: skip
    axis.set(xscale="log", yscale="log", xlabel="million parameters", ylabel=label)
    axis.grid(visible=True, which="major", alpha=0.3)
