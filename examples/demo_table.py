"""Prints the demo's report as a table for people."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

MIB = 1024 * 1024


def show(report: Mapping[str, Any], out: Path) -> None:
    """Prints rounds, totals and where the files are.

    Args:
        report: what `demo_report.make_report` made, with the total of `seconds`.
        out: the demo's folder.
    """
    console = Console(highlight=False)
    console.print()
    console.print(_rounds(report))
    console.print()
    for line in _facts(report):
        console.print(line)
    console.print()
    for file in ("report.json", "curves.png", "segmentation.png", "models/final.pt", "logs"):
        console.print(f"  {_near(out / file)}")


def _rounds(report: Mapping[str, Any]) -> Table:
    name = (report["main_metric"] or "metric").removeprefix("val_").replace("_", " ").replace("dice", "Dice")
    table = Table(
        title=f"{report['job']}: {name}, MB of all sites",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    table.add_column("round")
    for column in ("seconds", *report["sites"], "mean", "MB up", "MB down"):
        table.add_column(column, justify="right")
    baseline = report["baseline"] or {}
    sites = report["sites"]
    table.add_row("0", "", *(_metric(baseline.get(site)) for site in sites), _metric(report["baseline_metric"]), "", "")
    for entry in report["rounds"]:
        metric = entry["metric"] or {}
        table.add_row(
            str(entry["round"]),
            f"{entry['seconds']:.1f}",
            *(_metric(metric.get(site)) for site in sites),
            f"[bold]{_metric(entry['metric_mean'])}[/]",
            f"{sum(entry['bytes_up'].values()) / MIB:.2f}",
            f"{sum(entry['bytes_down'].values()) / MIB:.2f}",
        )
    return table


def _facts(report: Mapping[str, Any]) -> list[str]:
    prints = set(report["fingerprints"].values())
    per_value, he = report["bytes_per_value"], report["he"]
    same = (
        f"all {len(report['fingerprints'])} equal, {next(iter(prints))[:16]}" if len(prints) == 1 else "[red]DIFFER[/]"
    )
    exact = "equal the plaintext sums, value by value, in every round" if report["exact"] else "[red]DIFFER[/]"
    error, metric = report["max_error_vs_float"], [_metric(report[f"{when}_metric"]) for when in ("baseline", "final")]
    rows = {
        "decrypted sums": exact,
        "against float FedAvg": f"largest error {error:.1e} in a weight",
        "models at the sites": same,
        "encryption": f"{he['scheme']}, N {he['poly_modulus_degree']}, q {sum(he['coeff_modulus_bits'])} bits, "
        f"{he['security_bits']}-bit security; {report['parameters']:,} values",
        "bytes per value": f"{per_value['up']:.2f} up, {per_value['down']:.2f} down (plain float32: 4 and 4)",
        "server": f"{report['server_peak_rss_bytes'] / MIB:.0f} MB of memory at most, no key",
        "metric": f"{metric[0]} before training, {metric[1]} now",
        "time": f"{report['seconds']:.0f} s in all",
    }
    return [f"{name:<22}{value}" for name, value in rows.items()]


def _metric(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _near(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
