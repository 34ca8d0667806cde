"""All benchmarks in one go: steps, whole rounds, NVFlare beside them; writes a report, a page and charts.

    python benchmarks/bench.py [--quick] [--parameters N ...] [--sites N ...] [--engines NAME ...] [--peers NAME ...]

Contenders take turns, engine after engine, then plain, then NVFlare, and again, so that what else the computer does
meets all of them. Everything goes to build/bench; the whole run also writes docs/benchmarks.md and its charts.
"""

import argparse
import itertools
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import bench_charts
import bench_page
import nvflare_rounds
import round_measure
from bench_report import add_run, empty_report
from engines import engine_names
from round_federation import PLAIN, BenchmarkError

HERE = Path(__file__).parent
BUILD = HERE.parent / "build" / "bench"
DOCS = HERE.parent / "docs"
THREE = 3  # sites, where the number of parameters varies
LEAST_MODEL = 1_200_000  # parameters, where the number of sites varies
PEERS = tuple(f"nvflare-{recipe}" for recipe in nvflare_rounds.RECIPES)
# Larger than these, NVFlare does not fit into the memory of a computer of 24 GB.
PEER_LIMITS = {"nvflare-he": 6_000_000, "nvflare-he-mended": 6_000_000, "nvflare-plain": 30_000_000}


@dataclass(frozen=True)
class Run:
    """One federation to be measured.

    Attributes:
        contender: an engine, PLAIN, or one of PEERS.
        parameters: values of the model.
        sites: number of sites.
        rounds: counted rounds.
    """

    contender: str
    parameters: int
    sites: int
    rounds: int


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        parameters: sizes at three sites.
        sites: numbers of sites at the least size.
        contenders: engines, PLAIN, PEERS, in the order of their turns.
        rounds: counted rounds in each federation.
        turns: federations of each contender for each size.
        largest_peer: parameters above which NVFlare has no turn.
        micro_values: values in the measurement of steps; 0 leaves it out.
        micro_turns: turns in the measurement of steps.
    """

    parameters: tuple[int, ...] = (1_200_000, 5_700_000, 25_000_000, 100_000_000)
    sites: tuple[int, ...] = (3, 10, 30)
    contenders: tuple[str, ...] = (*engine_names(), PLAIN, *PEERS)
    rounds: int = 3
    turns: int = 2
    largest_peer: int = 100_000_000
    micro_values: int = 2_400_000
    micro_turns: int = 7


QUICK = Settings(
    parameters=(1_200_000, 5_700_000),
    sites=(THREE,),
    contenders=(*engine_names(), PLAIN, "nvflare-he-mended"),
    rounds=2,
    turns=1,
    largest_peer=LEAST_MODEL,
    micro_values=600_000,
    micro_turns=5,
)


def plan(settings: Settings) -> Iterator[Run]:
    """All federations in the order in which they run; each place's turns go round the contenders."""
    places = [(parameters, THREE) for parameters in settings.parameters]
    places += [(LEAST_MODEL, sites) for sites in settings.sites]
    for (parameters, sites), _ in itertools.product(dict.fromkeys(places), range(settings.turns)):
        for contender in settings.contenders:
            if contender in PEERS:
                largest = min(settings.largest_peer, PEER_LIMITS[contender])
                if sites != THREE or parameters > largest:
                    continue
            yield Run(contender, parameters, sites, settings.rounds)


def carry_out(run: Run, environment: Path) -> dict[str, Any]:
    """Runs one federation in a folder that is removed afterwards; its entry of the report.

    Raises:
        BenchmarkError: it failed or hung.
    """
    BUILD.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=BUILD))
    try:
        if run.contender in PEERS:
            recipe = run.contender.removeprefix("nvflare-")
            return nvflare_rounds.measure(folder, environment, recipe, run.parameters, run.rounds)
        return round_measure.measure(folder, run.contender, run.parameters, run.sites, run.rounds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure_steps(settings: Settings, environment: Path) -> dict[str, Any]:
    """The steps' times, from a process of their own that keeps to one core."""
    engines = [name for name in settings.contenders if name in engine_names()]
    python = environment / "bin" / "python"
    command = [sys.executable, HERE / "he_micro.py", "--json", "--engines", *engines]
    command += ["--values", settings.micro_values, "--turns", settings.micro_turns]
    command += ["--peer-python", python] if python.exists() else []
    done = subprocess.run([*map(str, command)], check=True, stdout=subprocess.PIPE, text=True, timeout=3600)
    steps: dict[str, Any] = json.loads(done.stdout)
    return steps


def measure_seal_parts() -> dict[str, Any]:
    """What SEAL's binding costs, from a process of its own that keeps to one core."""
    command = [sys.executable, str(HERE / "seal_parts.py"), "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=600)
    parts: dict[str, Any] = json.loads(done.stdout)
    return parts


def bench(settings: Settings, report_file: Path, environment: Path) -> dict[str, Any]:
    """Measures everything; the report is written anew after each step, so that one that is cut short has its part."""
    report = empty_report(time.time())
    if settings.micro_values:
        _say("steps of each engine")
        steps = measure_steps(settings, environment)
        report["nvflare"] |= steps.pop("nvflare")
        report["micro"] = steps
        report["seal_parts"] = measure_seal_parts()
        _write(report_file, report)
    for run in plan(settings):
        _say(f"{run.contender}: {run.parameters:,} parameters, {run.sites} sites")
        try:
            entry = carry_out(run, environment)
        except BenchmarkError as error:
            print(f"failed: {error}", flush=True)
            failed = {"engine": run.contender, "parameters": run.parameters, "sites": run.sites}
            report["failures"].append(failed | {"message": str(error).splitlines()[0]})
        else:
            print(f"  {entry['seconds']:.2f} s a round, {entry['cpu_seconds']:.2f} s of CPU", flush=True)
            add_run(report, entry)
        _write(report_file, report)
    return report


def main() -> None:
    """Command line; see the module's first lines."""
    signal.signal(signal.SIGTERM, _stop)  # so that SIGTERM ends the federations, too
    options = _options()
    base = QUICK if options.quick else Settings()
    peers = options.peers
    if not (options.environment / "bin" / "python").exists():
        peers = []
        print("NVFlare's rounds are left out: its environment is not there (make bench makes it)", flush=True)
    chosen = {
        "parameters": options.parameters,
        "sites": options.sites,
        "rounds": options.rounds,
        "turns": options.turns,
        "micro_values": options.micro_values,
    }
    engines = options.engines or [name for name in base.contenders if name not in PEERS]
    base_peers = [name for name in base.contenders if name in PEERS]
    settings = Settings(
        **{name: _tuple(getattr(base, name) if value is None else value) for name, value in chosen.items()},
        contenders=(*engines, *(base_peers if peers is None else peers)),
        micro_turns=base.micro_turns,
        largest_peer=base.largest_peer,
    )
    report = json.loads(options.report.read_text()) if options.page_only else None
    report = report or bench(settings, options.report, options.environment)
    place = BUILD if options.quick else DOCS
    bench_charts.draw(report, place / "images")
    page = place / "benchmarks.md"
    page.write_text(bench_page.page(report), encoding="utf-8")
    print(f"\nreport: {options.report}\npage: {page}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, few rounds; writes to build/bench only")
    parser.add_argument("--parameters", type=int, nargs="+", help="sizes of the model at three sites")
    parser.add_argument("--sites", type=int, nargs="+", help=f"numbers of sites at {LEAST_MODEL:,} parameters")
    parser.add_argument("--rounds", type=int, help="counted rounds in each federation")
    parser.add_argument("--turns", type=int, help="federations of each contender for each size")
    parser.add_argument("--engines", nargs="+", choices=[*engine_names(), PLAIN], help="whose rounds are measured")
    parser.add_argument("--peers", nargs="*", choices=PEERS, help="which of NVFlare's; none: --peers alone")
    parser.add_argument("--micro-values", type=int, help="values in the measurement of steps; 0 leaves it out")
    parser.add_argument("--environment", type=Path, default=nvflare_rounds.ENVIRONMENT, help="NVFlare's environment")
    parser.add_argument("--report", type=Path, default=BUILD / "report.json")
    parser.add_argument("--page-only", action="store_true", help="write page and charts anew from the report")
    options = parser.parse_args()
    if options.page_only and not options.report.is_file():
        parser.error(f"--report {options.report}: expected the report of an earlier run, found none")
    return options


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, Sequence) else value


def _write(file: Path, report: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _say(what: str) -> None:
    print(f"\n== {what}", flush=True)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    del number, frame
    sys.exit(143)


if __name__ == "__main__":
    main()
