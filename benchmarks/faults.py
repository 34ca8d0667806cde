"""Runs the real server and agents under seeded schedules of faults, and checks that nothing is lost.

    python benchmarks/faults.py --schedules 20 --seed 1
    python benchmarks/faults.py --only 17 --keep DIR

Each schedule is one job of three rounds over three sites; a training process that takes no time stands in for the real
one. Faults: SIGKILL of server, agent and training process at named steps, at random times and at the n-th change of the
disk; a power cut that loses what was not flushed; a network that is cut, silent, slow, narrow, or half-open; a server
that moves; a disk that takes nothing; clocks that jump. Afterwards the models must have the bytes of a calm run's, each
update must be in its sum once, and nothing may be left over. Writes build/faults/report.json; ends with 1 if anything
was wrong.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from faults_federation import provision
from faults_run import Calm, Run, carry_out
from faults_schedule import Schedule, draw

REPORT = Path("build/faults/report.json")


class Laboratories:
    """Calm runs and homes, made once for each engine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._calm: dict[str, Calm] = {}

    def template(self, engine: str) -> Path:
        """Homes of an engine's project."""
        template = self.folder / f"template-{engine}"
        if not template.exists():
            provision(template, engine)
        return template

    def calm(self, engine: str) -> Calm:
        """A run without faults.

        Raises:
            SystemExit: even that fails.
        """
        if engine not in self._calm:
            folder = self.folder / f"calm-{engine}"
            folder.mkdir()
            run = carry_out(Schedule(0, engine, ()), self.template(engine), folder, None)
            if run.trouble or run.outcome is None:
                sys.exit(f"a run without faults fails: {run.trouble}")
            shutil.rmtree(folder)
            self._calm[engine] = Calm(run.seconds, run.changes, run.descriptors, run.outcome)
        return self._calm[engine]

    def know(self, engine: str, calm: Calm) -> None:
        """Takes a calm run that was made elsewhere."""
        self._calm[engine] = calm

    def run(self, schedule: Schedule) -> Run:
        """A schedule's run, held against the calm one; the folder of one that went wrong is kept."""
        calm = self.calm(schedule.engine)
        folder = self.folder / f"run-{schedule.seed}"
        folder.mkdir()
        run = carry_out(schedule, self.template(schedule.engine), folder, calm)
        if run.outcome is not None:
            if run.outcome.rosters != calm.outcome.rosters:
                run.trouble.append(f"other rosters than in the calm run: {run.outcome.rosters}")
            elif run.outcome.digests != calm.outcome.digests:
                run.wrong_model = True
                run.trouble.append(f"another model than the calm run's: {run.outcome.digests}")
        if not run.trouble:
            shutil.rmtree(folder)
        return run


def report(runs: list[Run]) -> dict[str, Any]:
    """All runs in numbers."""
    done = [fault for run in runs for fault, _ in run.done]
    kills = Counter("trainer" if fault.what == "kill-trainer" else _role(fault.who) for fault in done if fault.is_kill)
    outcomes = [run.outcome for run in runs if run.outcome is not None]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}",
        "schedules": len(runs),
        "faults_injected": len(done),
        "faults": dict(sorted(Counter(fault.what for fault in done).items())),
        "kills": {role: kills[role] for role in ("server", "agent", "trainer")},
        "cuts": sum(run.cuts for run in runs),
        "wrong_final_models": sum(run.wrong_model for run in runs),
        "lost_updates": sum(len(one.lost) for one in outcomes),
        "doubled_updates": sum(len(one.doubled) for one in outcomes),
        "stuck_runs": sum(run.stuck for run in runs),
        "failed_runs": [run.schedule.seed for run in runs if run.trouble],
        "max_recovery_seconds": round(max((max(run.recoveries, default=0.0) for run in runs), default=0.0), 1),
        "median_seconds": round(sorted(run.seconds for run in runs)[len(runs) // 2], 1),
        "runs": [_entry(run) for run in runs],
    }


def _role(who: str) -> str:
    return "server" if who == "server" else "agent"


def _entry(run: Run) -> dict[str, Any]:
    return {
        "seed": run.schedule.seed,
        "engine": run.schedule.engine,
        "seconds": round(run.seconds, 1),
        "faults": [{**asdict(fault), "told": told} for fault, told in run.done],
        "recovery_seconds": [round(one, 1) for one in run.recoveries],
        "trouble": run.trouble,
    }


def main() -> None:
    """Command line; see the module's first lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedules", type=int, default=20, help="number of schedules")
    parser.add_argument("--seed", type=int, default=1, help="of the first schedule; the others follow")
    parser.add_argument("--only", type=int, metavar="SEED", help="one schedule alone")
    parser.add_argument("--out", type=Path, default=REPORT, help="the report")
    parser.add_argument("--keep", type=Path, help="a folder for what failed runs leave; otherwise a new one")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # and so end what was started
    seeds = range(options.seed, options.seed + options.schedules) if options.only is None else [options.only]
    folder = options.keep or Path(tempfile.mkdtemp(prefix="fedhe-faults-"))
    folder.mkdir(parents=True, exist_ok=True)
    laboratories, runs = Laboratories(folder), []
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        began = time.monotonic()
        run = laboratories.run(draw(seed))
        runs.append(run)
        options.out.write_text(json.dumps(report(runs), indent=1) + "\n", encoding="utf-8")
        said = "; ".join(run.trouble) or "as calm"
        print(f"schedule {seed}: {len(run.done)} faults, {time.monotonic() - began:.0f} s: {said}", flush=True)
    failed = [run.schedule.seed for run in runs if run.trouble]
    if not failed:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{len(runs)} schedules, {len(failed)} went wrong; {options.out}")
    if failed:
        sys.exit(f"went wrong: {failed}; what they left is in {folder}; again: --only SEED")


if __name__ == "__main__":
    main()
