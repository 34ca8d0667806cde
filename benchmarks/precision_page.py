"""Writes the precision study down: report, page and chart. What the page concludes follows from the numbers."""

import json
import statistics
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from precision_chart import draw
from precision_federation import FLOAT, Study
from precision_summary import LATE_VERSIONS, summarise

DEFAULT_BITS = 16
NOTHING = "\N{EN DASH}"
WIDTH = 120


def write_all(study: Study, runs: Sequence[dict[str, Any]], *, out: Path, docs: Path) -> None:
    """Writes `report.json` into `out`, and `precision.md` and `images/precision.png` into `docs`."""
    report = summarise(study, runs)
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    draw(report, docs / "images" / "precision.png")
    (docs / "precision.md").write_text(page(report), encoding="utf-8")
    print(f"written: {out / 'report.json'}, {docs / 'precision.md'}, {docs / 'images' / 'precision.png'}")


def page(report: dict[str, Any]) -> str:
    """The page in Markdown."""
    parts = [
        "# How many bits a value needs", _head(report), _ABOUT,
        "## Found", *_verdict(report), "![Dice over rounds, and the difference from float32](images/precision.png)",
        _dice_table(report), *_dice_notes(report), _error_table(report), _error_notes(report),
        "## Made", *_made(report),
        "## Repeat", _command(report), _repeat(report),
        "## Not shown", *_limits(report),
    ]  # fmt: skip
    text = ""
    for part in parts:
        item = part.startswith("- ") and text.splitlines()[-1].startswith(("- ", "  "))
        text += ("\n" if text and not item else "") + _wrapped(part) + "\n"
    return text


def _wrapped(part: str) -> str:
    """A paragraph in lines of the page's width; tables, code, headings and images as they are."""
    if part.startswith(("|", "    ", "#", "!")):
        return part
    indent = "  " if part.startswith("- ") else ""
    return textwrap.fill(part, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


_ABOUT = (
    "Before a site encrypts its update, it puts each value on a grid: a signed integer, a *field*, of a fixed number "
    "of bits (`precision` in a job's `config_fed.yml`). Fewer bits are fewer bytes and more rounding. This study "
    "trains one job with fields of several widths, and with float32 FedAvg without grid and encryption, which exists "
    "in the benchmark only. A *point* below is one hundredth of Dice."
)


def _head(report: dict[str, Any]) -> str:
    machine = report["machine"]
    return (
        f"Written by `benchmarks/precision.py` on {report['date']}. Machine: {machine['cores']} cores "
        f"({machine['processor']}, shared with other work), {machine['memory_gb']} GB, no GPU; "
        f"Python {machine['python']}, torch {machine['torch']}."
    )


def _fixed(report: dict[str, Any]) -> list[dict[str, Any]]:
    return [precision for precision in report["precisions"] if precision["bits"] != FLOAT]


def _verdict(report: dict[str, Any]) -> list[str]:
    fixed = _fixed(report)
    if any(precision["difference_interval95"] is None for precision in fixed):
        return ["One seed tells nothing about differences: this was a trial run."]
    lines = []
    for one in fixed:
        found = "a difference is measured" if one["differs"] else "no difference is measured"
        by_seed = ", ".join(_points(difference) for difference in one["difference_by_seed"])
        lines.append(
            f"- **{one['label']}: {found}.** {_points(one['difference'])} points against float32 "
            f"(95 % interval ± {100 * one['difference_interval95']:.2f}; by seed {by_seed})."
        )
    spread = 100 * report["precisions"][0]["dice_late_sd"]
    lines.append(
        f"- For scale: float32 itself has a standard deviation of {spread:.2f} points between seeds. And training "
        "amplifies any perturbation: the rounding of 24-bit fields is of the size of float32's own, so their "
        "differences show how far runs drift apart for no other reason."
    )
    return [*lines, _decision(fixed)]


def _points(difference: float) -> str:
    return f"{round(100 * difference, 2) + 0.0:+.2f}"  # no minus before zero


def _decision(fixed: Sequence[dict[str, Any]]) -> str:
    default = next((one for one in fixed if one["bits"] == DEFAULT_BITS), None)
    if default is None:
        return f"The default of {DEFAULT_BITS} bits was not part of this study."
    if default["differs"] and default["difference"] < 0:
        return f"**{DEFAULT_BITS} bits cost Dice here: the default has to be looked at again.**"
    bytes_of = {one["bits"]: one["bytes_up"] + one["bytes_down"] for one in fixed}
    said = [f"**{DEFAULT_BITS} bits stay the default.**"]
    for one in fixed:
        share = bytes_of[one["bits"]] / bytes_of[DEFAULT_BITS] - 1
        if one["bits"] > DEFAULT_BITS:
            gain = "and differ here" if one["differs"] else "and gain nothing that can be measured"
            said.append(f"{one['label']} cost {share:.0%} more bytes {gain}.")
        elif one["bits"] < DEFAULT_BITS and one["differs"]:
            said.append(f"{one['label']} would save {-share:.0%} of the bytes, but Dice differs.")
        elif one["bits"] < DEFAULT_BITS:
            noise = one["noise_to_change"] / default["noise_to_change"]
            said.append(
                f"{one['label']} save {-share:.0%} of the bytes at {noise:.0f} times the rounding noise, and did not "
                "differ measurably either: a job may ask for them. The default keeps the margin for networks, numbers "
                "of sites and longer trainings that were not measured."
            )
    return " ".join(said)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def _dice_table(report: dict[str, Any]) -> str:
    rounds = report["study"]["rounds"]
    rows = []
    for one in report["precisions"]:
        half, plain = one["difference_interval95"], one["bits"] == FLOAT
        rows.append([
            one["label"],
            f"{one['bytes_up']:.2f} + {one['bytes_down']:.2f}",
            f"{one['dice_final']:.4f}",
            f"{one['dice_late']:.4f}",
            NOTHING if one["dice_late_sd"] is None else f"{one['dice_late_sd']:.4f}",
            NOTHING if plain else _points(one["difference"]),
            NOTHING if plain or half is None else f"± {100 * half:.2f}",
            NOTHING if plain else f"{100 * one['difference_largest']:.2f}",
        ])  # fmt: skip
    head = (
        "weights", "bytes per value, up + down", f"Dice after round {rounds}", f"Dice, last {LATE_VERSIONS}",
        "SD between seeds", "points against float32", "95 % interval", "largest, any round and seed",
    )  # fmt: skip
    return _table(head, rows)


def _dice_notes(report: dict[str, Any]) -> list[str]:
    return [
        (
            f"*Dice* is the mean over anterior and posterior hippocampus, each site's validation cases, the sites, and "
            f"seeds {_seeds(report)}. *Last {LATE_VERSIONS}* averages the last {LATE_VERSIONS} versions of the model, "
            "because Dice jumps from one to the next; SD, points and interval (Student's t over the seeds) are of "
            "that. *Points against float32* compare runs of the same seed: same first model, same batches. "
            "*Largest* is over all versions of the model, also those in the steep part of the training."
        ),
        "Dice by round:",
        _table(
            ["round", *map(str, range(report["study"]["rounds"] + 1))],
            [[one["label"], *(f"{dice:.3f}" for dice in one["dice"])] for one in report["precisions"]],
        ),
    ]


def _error_table(report: dict[str, Any]) -> str:
    head = (
        "weights", "largest error of a weight, one round", "of a statistic", "rounding noise / update",
        "largest difference of a weight, last model",
    )  # fmt: skip
    rows = [
        [
            one["label"], f"{one['max_error']:.1e}", f"{one['max_error_statistics']:.1e}",
            f"{100 * one['noise_to_change']:.2g} %", f"{one['max_drift']:.2g}",
        ]
        for one in _fixed(report)
    ]  # fmt: skip
    return _table(head, rows)


def _error_notes(report: dict[str, Any]) -> str:
    return (
        "*Error* is the difference from float32 FedAvg of the very same updates after one round, the largest of all "
        "rounds and seeds. *Rounding noise / update* is its root mean square over that of the round's change of the "
        f"weights. *Last model* compares with the float32 run after round {report['study']['rounds']}; by then "
        "training has amplified the difference, whatever its size was. Running variances are large numbers, over 100 "
        "in places, so their error is larger too."
    )


def _made(report: dict[str, Any]) -> list[str]:
    study, run = report["study"], report["runs"][0]
    changed = f", with {'; '.join(study['settings'])}" if study["settings"] else ""
    cases = ", ".join(map(str, run["samples"]))
    return [
        (
            f"- Job `{study['job']}`{changed}: {study['sites']} sites that share the volumes ({cases} training cases), "
            f"{study['rounds']} rounds, local epochs: {study['local_epochs']}; {run['values']:,} values. A seed "
            "decides first model, batches, augmentation and rounding."
        ),
        (
            "- Training is the code that sites run (`fedhe.training`), deterministic on the CPU. The first round's "
            "updates are the same bytes at every precision; all difference comes from averaging."
        ),
        (
            "- Averaging is the code that clients and server run: common grid, stochastic rounding, packing, "
            "encryption with the `fast` engine, sum, decryption, apply. Every round is encrypted, and each "
            "decrypted chunk is compared with the sum of the fields: all were equal to the last bit, or the benchmark "
            "would have ended."
        ),
        (
            "- Running statistics of batch norm have 24 bits in every fixed-point run, as in the job; only the "
            "weights' width changes."
        ),
    ]


def _command(report: dict[str, Any]) -> str:
    bits = " ".join(str(one["bits"]) for one in _fixed(report))
    return (
        f"    python benchmarks/precision.py --data /data/Task04_Hippocampus --workers 2 "
        f"--rounds {report['study']['rounds']} \\\n        --seeds {_seeds(report, ' ')} --bits {bits}"
    )


def _repeat(report: dict[str, Any]) -> str:
    seconds = statistics.median(run["rounds"][-1]["seconds"] for run in report["runs"])
    return (
        f"A round of one run took about {seconds:.0f} s on a busy core. Finished rounds are kept in "
        "`build/precision/runs` and used again, so a study that was cut off goes on, and seeds and rounds can be "
        "added. `--quick` takes about a minute and only shows that it runs. All numbers are in "
        "`build/precision/report.json`."
    )


def _limits(report: dict[str, Any]) -> list[str]:
    study, fixed = report["study"], _fixed(report)
    halves = [100 * one["difference_interval95"] for one in fixed if one["difference_interval95"] is not None]
    dice = report["precisions"][0]["dice"]
    last = 100 * (dice[-1] - dice[-2])
    seen = f"differences below about {max(halves):.2f} points are not seen" if halves else "no difference is seen"
    return [
        (
            f"- With seeds {_seeds(report)} and {study['rounds']} rounds {seen}. At 95 % for each of {len(fixed)} "
            f"widths, up to one such study in {round(1 / (1 - 0.95 ** len(fixed)))} finds a difference where "
            "there is none."
        ),
        (
            f"- The job's own configuration says {study['job_rounds']} rounds; this study made {study['rounds']}. In "
            f"the last one Dice of float32 still changed by {last:+.2f} points; longer trainings were not measured."
        ),
        (
            f"- One job, one network, {study['sites']} sites, one way to share the volumes. Each site rounds "
            "for itself, so the noise grows with the square root of the number of sites: 30 sites have about "
            "3 times that of 3."
        ),
    ]


def _seeds(report: dict[str, Any], between: str = ", ") -> str:
    return between.join(map(str, report["study"]["seeds"]))
