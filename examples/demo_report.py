"""The demo's report: what the rounds did, and whether what the sites decrypted is exactly what they had put in.

The sites' policy `record_updates: true` keeps, at each site, the integer fields that it encrypted, its change of the
model in float32, and the sum that it decrypted. Nothing of this leaves a site in a real federation; the demo, which
owns all three, compares them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhe.model.layout import Layout


@dataclass(frozen=True)
class SiteRecord:
    """What one site kept of one round.

    Attributes:
        fields: (n_values,) int64, what it encrypted.
        sum_fields: (n_values,) int64, what it decrypted.
        change: (n_values,) float32, its weights after training less those before.
        steps: (n_tensors,) float64, the value of one unit of a field in each tensor.
        weight: its share of the average.
    """

    fields: NDArray[np.int64]
    sum_fields: NDArray[np.int64]
    change: NDArray[np.float32]
    steps: NDArray[np.float64]
    weight: float


@dataclass(frozen=True)
class Comparison:
    """The decrypted sums of one round against plaintext arithmetic.

    Attributes:
        exact: every site's decrypted sum equals the integer sum of what the sites encrypted, value by value, and
            all sites used the same steps.
        max_error: largest difference of a weight's averaged change from FedAvg in float64.
        max_error_in_steps: the same in units of the tensor's step; rounding at K sites keeps it below K.
    """

    exact: bool
    max_error: float
    max_error_in_steps: float


def read_layout(job_folder: Path) -> Layout:
    """The model's layout as a site's job folder has it."""
    return Layout.from_json((job_folder / "layout.json").read_bytes())


def read_record(job_folder: Path, number: int) -> SiteRecord:
    """What a site kept of round `number`.

    Raises:
        FileNotFoundError: the site's policy did not keep it.
    """
    folder = job_folder / "record" / f"round-{number}"
    arrays = {name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in _ARRAYS}
    described = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    return SiteRecord(**arrays, weight=float(described["weight"]))


_ARRAYS = ("fields", "sum_fields", "change", "steps")


def compare(records: Sequence[SiteRecord], layout: Layout) -> Comparison:
    """Adds up in plaintext what the sites of one round encrypted, and compares it with what each decrypted."""
    first = records[0]
    expected = np.sum([record.fields for record in records], axis=0)
    exact = all(
        np.array_equal(record.sum_fields, expected) and np.array_equal(record.steps, first.steps) for record in records
    )
    sizes = [part.stop - part.start for part in layout.slices()]
    step = np.repeat(first.steps, sizes)
    averaged = first.sum_fields.astype(np.float64) * step
    plain = np.sum([record.change.astype(np.float64) * record.weight for record in records], axis=0)
    error = np.abs(averaged - plain)
    in_steps = np.divide(error, step, out=np.zeros_like(error), where=step > 0)
    return Comparison(exact, float(error.max(initial=0.0)), float(in_steps.max(initial=0.0)))


def make_report(
    *,
    job: str,
    job_folders: Mapping[str, Path],
    he: Mapping[str, Any],
    rounds: Mapping[str, Any],
    server: Mapping[str, Any],
) -> dict[str, Any]:
    """Puts the report together.

    Args:
        job: the job's name.
        job_folders: each site's folder of the job.
        he: parameters as `CkksParams.to_dict` gives them, with this job's field bits.
        rounds: what `fedhe-admin rounds list --json` printed.
        server: what `fedhe-admin status --json` printed.
    """
    layout = read_layout(next(iter(job_folders.values())))
    entries = rounds["rounds"]
    compared = [
        compare([read_record(job_folders[site], entry["round"]) for site in entry["contributors"]], layout)
        for entry in entries
    ]
    described = [_round(entry) for entry in entries]
    last = entries[-1]
    traffic = {way: max(max(entry[way].values()) for entry in entries) for way in ("bytes_up", "bytes_down")}
    return {
        "job": job,
        "sites": sorted(job_folders),
        "parameters": layout.n_values,
        "he": {key: he[key] for key in _HE_KEYS},
        "rounds": described,
        "exact": all(each.exact for each in compared),
        "max_error_vs_float": max(each.max_error for each in compared),
        "max_error_in_steps": max(each.max_error_in_steps for each in compared),
        "fingerprints": last["fingerprints"],
        "final_metric": described[-1]["metric_mean"],
        "baseline_metric": _mean(rounds["baseline"]),
        "baseline": rounds["baseline"],
        "main_metric": rounds["main_metric"],
        "samples": last["samples"],
        "bytes_per_value": {way.removeprefix("bytes_"): count / layout.n_values for way, count in traffic.items()},
        "server_peak_rss_bytes": server["peak_rss_bytes"],
    }


_HE_KEYS = ("scheme", "poly_modulus_degree", "coeff_modulus_bits", "scale_bits", "field_bits", "security_bits")


def faults(report: Mapping[str, Any], rounds: int) -> list[str]:
    """What the report does not show as it should; empty where the federation did what it promises."""
    prints = set(report["fingerprints"].values())
    found = []
    if len(report["rounds"]) != rounds:
        found.append(f"expected {rounds} rounds, got {len(report['rounds'])}")
    if not report["exact"]:
        found.append("a decrypted sum differs from the sum of what the sites encrypted")
    if len(prints) != 1 or set(report["fingerprints"]) != set(report["sites"]):
        found.append(f"expected one fingerprint of all sites, got {report['fingerprints']}")
    if report["final_metric"] is None or report["baseline_metric"] is None:
        found.append("the metric is not known")
    elif report["final_metric"] <= report["baseline_metric"]:
        found.append(f"the metric did not rise: {report['baseline_metric']:.3f} to {report['final_metric']:.3f}")
    return found


def _round(entry: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("round", "seconds", "contributors", "bytes_up", "bytes_down", "metric")
    return {**{key: entry[key] for key in kept}, "metric_mean": _mean(entry["metric"])}


def _mean(metric: Mapping[str, float] | None) -> float | None:
    return fmean(metric.values()) if metric else None
