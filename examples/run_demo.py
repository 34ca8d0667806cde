"""Runs a whole federation on this computer: three hospitals, a server without keys, an admin, real MRI.

Nothing is simulated but the distance: the real commands run as separate processes that talk over mutual TLS on a free
local port, each party with a home folder of its own. Everything the run leaves behind lies in the folder --out.

    python examples/run_demo.py
    python examples/run_demo.py --job hippocampus --data /data/Task04_Hippocampus --rounds 3
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import demo_table
import yaml
from demo_jobs import JOBS, DemoJob
from demo_programs import DemoError, Programs
from demo_report import faults, make_report

from fedhe.config.document import load_document
from fedhe.config.federation import FederationConfig, federation_config
from fedhe.errors import FedheError
from fedhe.he.params import CkksParams, CkksParamsLiteral

SITES = ("hospitalA", "hospitalB", "hospitalC")
APPROVING_SITE = SITES[-1]  # looks at each job before it runs; the others trust signed jobs
ADMIN = "admin@example.org"
MARKER = ".fedhe-demo"  # in a folder that an earlier run made, and that may therefore be emptied
UNSEEN_PLANE = 86  # axial, through the ventricles; 1 mm per plane
START_SECONDS = 90.0
JOB_SECONDS = 3600.0


@dataclass(frozen=True)
class Places:
    """Folders of the demo: one home for each party, as if each were a computer of its own."""

    out: Path

    @property
    def kits(self) -> Path:
        """What the coordinator makes."""
        return self.out / "coordinator"

    @property
    def logs(self) -> Path:
        """One log per background program."""
        return self.out / "logs"

    def home(self, party: str) -> Path:
        """The --home of a party."""
        return self.out / "computers" / party

    def site(self, name: str) -> Path:
        """A site's folder: policy, jobs, records."""
        return self.home(name) / "sites" / name


def main() -> int:
    """Command line; see the module's first lines."""
    options = _options()
    signal.signal(signal.SIGTERM, _stop)  # so that SIGTERM ends the programs, too
    try:
        return run(options.job, options.data, options.rounds, options.out.resolve(), options.timeout)
    except DemoError as error:
        print(f"error: {error}", file=sys.stderr)
    except FedheError as error:
        print(f"error: {error.message}" + (f"; {error.hint}" if error.hint else ""), file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 1


def run(name: str, data: Path | None, rounds: int | None, out: Path, seconds: float) -> int:
    """Runs the demo from an empty folder to the report; returns the exit code.

    Raises:
        DemoError: something did not go as it should; all programs are ended by then.
        FedheError: a file of the job is wrong.
    """
    started = time.monotonic()
    places = Places(out)
    _fresh(out)
    _say("data")
    job = JOBS[name](SITES, data, out)
    folder, federation = _job_folder(job, rounds, out)
    # Sites share this computer's cores; without a limit every process would use all of them and they would fight.
    threads = str(max(1, (os.cpu_count() or 1) // len(SITES)))
    with Programs(places.logs, {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or threads}) as programs:
        _provision(programs, places, job)
        _start(programs, places)
        job_id = _submit(programs, places, folder)
        _say(f"train: {federation.rounds} rounds")
        programs.watch("fedhe-admin", "rounds", "watch", job_id, *_at(places.home("admin")), seconds=seconds)
        _say("results")
        report = _collect(programs, places, job_id, name, federation)
        models = _models(programs, places, job_id)
    _draw(report, job, folder, models, out)
    report["seconds"] = round(time.monotonic() - started, 1)
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    demo_table.show(report, out)
    found = faults(report, federation.rounds)
    for fault in found:
        print(f"error: {fault}", file=sys.stderr)
    return 1 if found else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Runs a whole federation on this computer, encrypted, on real MRI.")
    parser.add_argument("--job", choices=sorted(JOBS), default="brain_tissue")
    parser.add_argument("--data", type=Path, metavar="DIR", help="data in the Decathlon's layout; see the job's README")
    parser.add_argument("--rounds", type=int, metavar="N", help="instead of the job's own number of rounds")
    parser.add_argument("--out", type=Path, metavar="DIR", default=Path("build/demo"), help="default: build/demo")
    parser.add_argument(
        "--timeout", type=float, metavar="SECONDS", default=JOB_SECONDS, help="give up on the job after that long"
    )
    options = parser.parse_args()
    if options.rounds is not None and options.rounds < 1:
        parser.error(f"--rounds: expected 1 or more, got {options.rounds}")
    return options


def _fresh(out: Path) -> None:
    """Empties the folder of an earlier run.

    Raises:
        DemoError: it holds something that no demo made.
    """
    if out.exists() and not (out / MARKER).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise DemoError(f"{out}: expected an empty folder or one that an earlier demo made; choose another --out")
    shutil.rmtree(out, ignore_errors=True)
    (out / "logs").mkdir(parents=True)
    (out / MARKER).write_text("made by examples/run_demo.py, which empties this folder at its next run\n")


def _job_folder(job: DemoJob, rounds: int | None, out: Path) -> tuple[Path, FederationConfig]:
    """The job's folder, or with another number of rounds a copy of it; and its federation settings."""
    folder = job.folder
    if rounds is not None:
        folder = out / "job" / job.folder.name
        shutil.copytree(job.folder, folder, ignore=shutil.ignore_patterns("__pycache__"))
        file = folder / "config" / "config_fed.yml"
        file.write_text(re.sub(r"(?m)^rounds:.*$", f"rounds: {rounds}", file.read_text("utf-8")), encoding="utf-8")
    return folder, federation_config(load_document(folder / "config" / "config_fed.yml"))


def _provision(programs: Programs, places: Places, job: DemoJob) -> None:
    """The coordinator makes kits; every party installs its own, and every site writes its policy."""
    _say("provision")
    project = {
        "project": {"name": "demo"},
        "server": {"host": "localhost", "port": _free_port()},
        "sites": list(SITES),
        "admins": [{"name": ADMIN, "role": "lead", "holds_key": True}],
    }
    file = places.out / "project.yml"
    file.write_text(yaml.safe_dump(project, sort_keys=False), encoding="utf-8")
    secrets = places.out / "passphrases.json"
    programs.run("fedhe-provision", file, "--out", places.kits, "--passphrases", secrets)
    phrases = json.loads(secrets.read_text(encoding="utf-8"))
    parties = [("fedhe-server", "server", "server"), ("fedhe-admin", "admin", ADMIN)]
    for command, home, kit in [*parties, *(("fedhe-client", site, site) for site in SITES)]:
        programs.run(
            command, "install", places.kits / "kits" / f"{kit}.kit", "--home", places.home(home),
            environment={"FEDHE_PASSPHRASE": phrases[kit]},
        )  # fmt: skip
    secrets.unlink()
    for site in SITES:
        policy = {
            "job_code": "approve" if site == APPROVING_SITE else "allow",
            "min_sites": len(SITES),
            "data_root": str(job.data[site].data_root),
            "environment": dict(job.data[site].environment),
            "share_metrics": False,
            # What a real hospital would rather not keep; here it lets the report check every sum.
            "record_updates": True,
        }
        (places.site(site) / "policy.yml").write_text(yaml.safe_dump(policy, sort_keys=False), encoding="utf-8")


def _start(programs: Programs, places: Places) -> None:
    """Starts the server and the sites' agents, and waits until all are connected."""
    _say("start")
    server = programs.start("server", "fedhe-server", "start", *_at(places.home("server")))
    programs.wait_for("the server", lambda: b"ready on" in server.log.read_bytes(), START_SECONDS)
    for site in SITES:
        programs.start(site, "fedhe-client", "start", "--site", site, *_at(places.home(site)))

    def all_online() -> bool:
        listed = programs.ask("fedhe-admin", "sites", "list", "--json", *_at(places.home("admin")))
        return listed is not None and sum(site["online"] for site in json.loads(listed)) == len(SITES)

    programs.wait_for("the sites to connect", all_online, START_SECONDS)


def _submit(programs: Programs, places: Places, folder: Path) -> str:
    """The admin submits the job; one site looks at it and approves it by its hash. Returns the job's id."""
    _say("submit and approve")
    said = programs.run(
        "fedhe-admin", "jobs", "submit", folder, "--start", "--json", *_at(places.home("admin"))
    )  # fmt: skip
    submitted = json.loads(said)
    home = places.home(APPROVING_SITE)

    def has_come() -> bool:
        listed = programs.ask("fedhe-client", "jobs", "list", "--json", *_at(home))
        return listed is not None and any(job["hash"] == submitted["archive_digest"] for job in json.loads(listed))

    programs.wait_for(f"the job to reach {APPROVING_SITE}", has_come, START_SECONDS)
    programs.run(
        "fedhe-client", "jobs", "approve", submitted["job_id"], "--yes",
        "--hash", submitted["archive_digest"], *_at(home),
    )  # fmt: skip
    return str(submitted["job_id"])


def _collect(
    programs: Programs, places: Places, job_id: str, name: str, federation: FederationConfig
) -> dict[str, Any]:
    """Makes the report from what the admin's commands say and what the sites recorded."""
    home = _at(places.home("admin"))
    rounds = json.loads(programs.run("fedhe-admin", "rounds", "list", job_id, "--json", *home))
    server = json.loads(programs.run("fedhe-admin", "status", "--json", *home))
    precision = federation.precision
    he = CkksParams.from_literal(
        CkksParamsLiteral(field_bits=precision.field_bits, statistics_bits=precision.statistics_bits)
    )
    folders = {site: places.site(site) / "jobs" / job_id for site in SITES}
    return make_report(job=name, job_folders=folders, he=he.to_dict(), rounds=rounds, server=server)


def _models(programs: Programs, places: Places, job_id: str) -> dict[str, Path]:
    """Downloads and opens sealed checkpoints with the admin's key: the oldest that is stored, and the last."""
    home = _at(places.home("admin"))
    stored = sorted(json.loads(programs.run("fedhe-admin", "jobs", "show", job_id, "--json", *home))["checkpoints"])
    models = {}
    for version in dict.fromkeys((stored[0], stored[-1])):
        file = places.out / "models" / f"round-{version}.safetensors"
        file.parent.mkdir(exist_ok=True)
        programs.run("fedhe-admin", "model", "download", job_id, "--version", str(version), "--out", file, *home)
        models["before training" if version == 0 else f"after round {version}"] = file
    programs.run("fedhe-admin", "model", "download", job_id, "--out", places.out / "models" / "final.pt", *home)
    return models


def _draw(report: Mapping[str, Any], job: DemoJob, folder: Path, models: Mapping[str, Path], out: Path) -> None:
    """Draws both pictures."""
    _say("pictures")
    # torch and matplotlib take seconds to import, and the programs above need the cores more.
    from demo_figures import draw_curves, draw_segmentations  # noqa: PLC0415
    from demo_predictions import View, take_pictures, validation_case  # noqa: PLC0415

    draw_curves(report, out / "curves.png")
    views = []
    for site, data in job.data.items():
        values = {"DATA_ROOT": str(data.data_root), **data.environment}
        views.append(View(site, validation_case(folder, values), job.axis))
    if job.unseen is not None:
        views.append(View("unseen scanner", job.unseen, axis=2, flip=True, plane=UNSEEN_PLANE))
    pictures = take_pictures(folder, list(models.values()), views)
    draw_segmentations(pictures, list(models), job.labels, job.note, out / "segmentation.png")


def _at(home: Path) -> tuple[str, Path]:
    """The option that names a party's home folder."""
    return "--home", home


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _say(step: str) -> None:
    print(f"\n== {step}", flush=True)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    del number, frame
    sys.exit(143)


if __name__ == "__main__":
    sys.exit(main())
