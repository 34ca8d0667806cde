"""Rounds of NVFlare 2.9 with a server and three clients, its own provisioning, and a training step that takes no time.

    python benchmarks/nvflare_rounds.py --recipe he|he-mended|plain --parameters 1200000 [--rounds 2]

`he-mended` runs a copy of NVFlare in which one debug line no longer formats every payload it receives
(`fuel/f3/cellnet/cell.py`; it takes half of a round with encryption otherwise): the fairer peer. Needs an environment
with `nvflare[HE]==2.9.0` and torch for the CPU, by default build/bench/nvflare-env.
"""

import argparse
import itertools
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import yaml
from round_federation import BenchmarkError
from round_usage import Sampler, Tree
from tcp_bytes import TcpBytes

HERE = Path(__file__).parent
ENVIRONMENT = HERE.parent / "build" / "bench" / "nvflare-env"
RECIPES = ("he", "he-mended", "plain")
SITES = ("site-1", "site-2", "site-3")
SERVER = "localhost"
ADMIN = "admin@example.org"
UNCOUNTED_ROUNDS = 2  # the first one sends a plaintext model; the end of the last one is not told
START_SECONDS = 120.0
LEAST_AVAILABLE_BYTES = 1_500_000_000  # with less, NVFlare's processes are ended before the system ends any
_WASTE = ("incoming data={result}", "incoming data={len(result)}")
_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}")
_STARTED = re.compile(r"Round \d+ started")
_BUILDERS = "nvflare.lighter.impl"


class Flare:
    """A provisioned NVFlare federation; leaving the `with` block ends its processes."""

    def __init__(self, folder: Path, environment: Path, recipe: str) -> None:
        self.folder, self.recipe = folder, recipe
        self.python = environment / "bin" / "python"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.ports = _free_ports(2)
        paths = [str(HERE)]
        if recipe == "he-mended":
            paths.insert(0, str(_mended(self.python, folder / "mended")))
        # The programs' scripts look for python3 on the PATH.
        self.variables = {
            **os.environ,
            "PATH": f"{environment / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": ":".join(paths),
        }

    def __enter__(self) -> Self:
        try:
            self._provision()
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def kit(self, name: str) -> Path:
        """A participant's start-up kit."""
        return self.folder / "workspace" / "benchmark" / "prod_00" / name

    def run(self, parameters: int, rounds: int, seconds: float) -> str:
        """Runs a job to its end; returns the server's log of it, which NVFlare removes with the job.

        Raises:
            BenchmarkError: it failed, took longer than `seconds`, or memory ran out.
        """
        command = [self.python, HERE / "nvflare_submit.py", self.kit(ADMIN), ADMIN, self.recipe.partition("-")[0]]
        out = self.folder / "submit.log"
        with out.open("wb") as log:
            submit = subprocess.Popen(
                [*map(str, command), str(parameters), str(rounds)],
                cwd=self.folder, env=self.variables, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        kept, deadline = self.folder / "server-job.log", time.monotonic() + seconds
        try:
            while submit.poll() is None:
                self._keep_log(out, kept)
                if time.monotonic() > deadline:
                    raise BenchmarkError(f"NVFlare's job has not ended after {seconds:.0f} s")
                if psutil.virtual_memory().available < LEAST_AVAILABLE_BYTES:
                    raise BenchmarkError("out of memory")
                time.sleep(0.3)
        finally:
            submit.kill()
            submit.wait()
        if "ended FINISHED:COMPLETED" not in out.read_text(errors="replace"):
            raise BenchmarkError(f"NVFlare's job failed:\n{out.read_text(errors='replace')[-1500:]}")
        return kept.read_text(errors="replace")

    def stop(self) -> None:
        """Ends all processes and their children, by their ids."""
        for process in self.processes.values():
            try:
                family = psutil.Process(process.pid).children(recursive=True)
            except psutil.NoSuchProcess:
                family = []
            for one in [*family, process]:
                try:
                    one.kill()
                except psutil.NoSuchProcess:
                    continue
            process.wait()

    def _keep_log(self, out: Path, kept: Path) -> None:
        """Links the server's log of the job, so that it stays when NVFlare removes the job's folder."""
        found = re.search(r"^job (\S+)", out.read_text(errors="replace"), re.MULTILINE)
        if found and not kept.exists():
            live = self.kit(SERVER) / found[1] / "log.txt"
            if live.exists():
                os.link(live, kept)

    def _provision(self) -> None:
        people = [{"name": name, "type": "client", "org": "benchmark"} for name in SITES]
        ports = dict(zip(("fed_learn_port", "admin_port"), self.ports, strict=True))
        project = {
            "api_version": 3,
            "name": "benchmark",
            "participants": [
                {"name": SERVER, "type": "server", "org": "benchmark", **ports},
                *people,
                {"name": ADMIN, "type": "admin", "org": "benchmark", "role": "project_admin"},
            ],
            "builders": [
                {"path": f"{_BUILDERS}.workspace.WorkspaceBuilder"},
                {"path": f"{_BUILDERS}.static_file.StaticFileBuilder", "args": {"config_folder": "config"}},
                {
                    "path": f"{_BUILDERS}.he.HEBuilder",
                    "args": {
                        "scheme": "CKKS",
                        "poly_modulus_degree": 8192,
                        "coeff_mod_bit_sizes": [60, 40, 40],
                        "scale_bits": 40,
                    },
                },
                {"path": f"{_BUILDERS}.cert.CertBuilder"},
                {"path": f"{_BUILDERS}.signature.SignatureBuilder"},
            ],
        }
        (self.folder / "project.yml").write_text(yaml.safe_dump(project, sort_keys=False), encoding="utf-8")
        subprocess.run(
            [str(self.python), "-m", "nvflare.cli", "provision", "-p", "project.yml"],
            cwd=self.folder, env=self.variables, check=True, capture_output=True, timeout=START_SECONDS,
        )  # fmt: skip
        # By default jobs and snapshots lie in a folder that all federations of a computer share.
        local = self.kit(SERVER) / "local"
        text = (local / "resources.json.default").read_text()
        (local / "resources.json").write_text(text.replace("/tmp/nvflare/", f"{self.folder}/store/"))  # noqa: S108

    def _start(self) -> None:
        for name in (SERVER, *SITES):
            with (self.folder / f"{name}.log").open("wb") as log:
                self.processes[name] = subprocess.Popen(
                    [str(self.kit(name) / "startup" / "sub_start.sh"), "--once"],
                    env=self.variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                )  # fmt: skip
            time.sleep(3.0 if name == SERVER else 0.0)
        deadline = time.monotonic() + START_SECONDS
        log = self.folder / f"{SERVER}.log"
        while f"Total clients: {len(SITES)}" not in log.read_text(errors="replace"):
            if time.monotonic() > deadline:
                raise BenchmarkError(f"NVFlare's clients did not connect:\n{log.read_text(errors='replace')[-1500:]}")
            time.sleep(0.3)


def measure(folder: Path, environment: Path, recipe: str, parameters: int, rounds: int) -> dict[str, Any]:
    """Runs `rounds` counted rounds in an empty folder; an entry like those of round_measure.py.

    Raises:
        BenchmarkError: it failed, hung, or memory ran out.
    """
    with Flare(folder, environment, recipe) as flare:
        trees = {name: Tree(process.pid) for name, process in flare.processes.items()}
        with Sampler(trees) as sampler, TcpBytes(flare.ports[0]) as tcp:
            total = rounds + UNCOUNTED_ROUNDS
            log = flare.run(parameters, total, 120 + total * (60 + 25 * parameters / 1e6))
    started = round_starts(log)
    if len(started) != total:
        raise BenchmarkError(f"expected {total} rounds in NVFlare's log, found {len(started)}")
    counted = list(itertools.pairwise(started[1:]))
    server = statistics.median(sampler.cpu_between(SERVER, *span) for span in counted)
    client = statistics.median(statistics.mean(sampler.cpu_between(s, *span) for s in SITES) for span in counted)
    up, down = zip(*(tcp.between(*span) for span in counted), strict=True)
    return {
        "engine": f"nvflare-{recipe}",
        "parameters": parameters,
        "sites": len(SITES),
        "seconds": statistics.median(end - begin for begin, end in counted),
        "bytes_up": statistics.median(up) / len(SITES),
        "bytes_down": statistics.median(down) / len(SITES),
        "server_peak_rss": sampler.peak_bytes(SERVER),
        "client_peak_rss": max(sampler.peak_bytes(name) for name in SITES),
        "cpu_seconds": server + len(SITES) * client,
        "server_cpu_seconds": server,
        "client_cpu_seconds": client,
        "rounds_seconds": [end - begin for begin, end in counted],
    }


def round_starts(log: str) -> list[float]:
    """When rounds started by the server's log, seconds since 1970; a message may follow its time on a later line."""
    starts, when = [], 0.0
    for line in log.splitlines():
        if found := _TIME.match(line):
            when = datetime.strptime(found[0], "%Y-%m-%d %H:%M:%S,%f").timestamp()  # noqa: DTZ007 - local time
        if _STARTED.search(line):
            starts.append(when)
    return starts


def _mended(python: Path, folder: Path) -> Path:
    """A copy of the installed NVFlare with the one line changed; returns the folder for PYTHONPATH."""
    code = "import nvflare, pathlib; print(pathlib.Path(nvflare.__file__).parent)"
    where = subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    shutil.copytree(where, folder / "nvflare", ignore=shutil.ignore_patterns("__pycache__"))
    file = folder / "nvflare" / "fuel" / "f3" / "cellnet" / "cell.py"
    text = file.read_text()
    if text.count(_WASTE[0]) != 1:
        raise BenchmarkError("this NVFlare is not the one whose line is known: expected release 2.9.0")
    file.write_text(text.replace(*_WASTE))
    return folder


def _free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def main() -> None:
    """Command line; see the module's first lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", choices=RECIPES, default="he")
    parser.add_argument("--parameters", type=int, default=1_200_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--environment", type=Path, default=ENVIRONMENT)
    parser.add_argument("--keep", type=Path, help="an empty folder that stays afterwards")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that SIGTERM ends NVFlare's processes, too
    folder = options.keep or Path(tempfile.mkdtemp(prefix="fedhe-bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        entry = measure(folder, options.environment, options.recipe, options.parameters, options.rounds)
    finally:
        if options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(entry, indent=1))


if __name__ == "__main__":
    main()
