"""A whole federation on this computer for the benchmark: provisioned, installed, started, and always ended again."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from fedhe.config.project import load_project
from fedhe.provisioning.carry_out import carry_out, write_outcome
from fedhe.provisioning.reconcile import Wishes, reconcile
from fedhe.provisioning.state import locked
from fedhe.provisioning.unpack import unpack_kit
from fedhe.server import records
from fedhe.server.database import database_url
from fedhe.server.store import look_into
from fedhe.server.summary import read_summary

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
PLAIN = "plain"  # in the place of an engine's name
ADMIN = "admin@example.org"
START_SECONDS = 120.0
STOP_SECONDS = 20.0
POLL_SECONDS = 0.5
LOG_LINES_TOLD = 15
# The smallest job that the admin's command takes; nothing of it is ever made, see round_trainer.py.
_TRAINING = {
    "epochs": 1,
    "train": {
        "model": {"name": "UNet"},
        "loss": {"name": "DiceLoss"},
        "optimizer": {"name": "Adam"},
        "dataset": {"name": "Dataset", "data_list": {"name": "decathlon", "file": "none.json"}},
    },
}


class BenchmarkError(Exception):
    """The benchmark cannot go on; says why."""


@dataclass
class Federation:
    """A server and sites as processes of their own; leaving the `with` block ends them.

    Attributes:
        folder: empty folder for all that belongs to it.
        engine: as in the project file, or PLAIN.
        sites: number of sites.
        parameters: values of the model.
        he: the section of that name in the project file.
        others: sites of the project that have no part in the job, and no agent.
    """

    folder: Path
    engine: str
    sites: int
    parameters: int
    server: subprocess.Popen[bytes] | None = None
    agents: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    he: dict[str, int] = field(default_factory=dict)
    others: tuple[str, ...] = ()

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

    @property
    def names(self) -> list[str]:
        """The sites' names."""
        return [f"site{number:03d}" for number in range(1, self.sites + 1)]

    @property
    def server_folder(self) -> Path:
        """Database and blobs of the server."""
        return self.folder / "server-home" / "server"

    def submit(self, rounds: int, **keys: object) -> str:
        """Submits and starts a job by the admin's command, with `keys` in its config_fed.yml; returns its id."""
        job = self.folder / "job"
        files: dict[str, Any] = {
            "config_train.json": _TRAINING,
            "environment.json": {},
            "config_fed.yml": {
                "name": "benchmark",
                "rounds": rounds,
                "sites": self.names,
                "min_sites": min(self.sites, 3),
                "checkpoint_every": rounds + 1,  # sealing is no part of a round
                **keys,
            },
        }
        (job / "config").mkdir(parents=True)
        for name, content in files.items():
            (job / "config" / name).write_text(json.dumps(content), encoding="utf-8")
        command = [str(BIN / "fedhe-admin"), "--home", str(self.folder / "admin-home"), "--as", ADMIN]
        command += ["jobs", "submit", str(job), "--start", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=START_SECONDS, check=False)
        if done.returncode != 0:
            raise BenchmarkError(f"the job was refused: {done.stderr.strip()}")
        return str(json.loads(done.stdout)["job_id"])

    def wait_for(self, what: str, reached: Callable[[], bool], seconds: float) -> None:
        """Waits until `reached()`.

        Raises:
            BenchmarkError: a process ended, or `seconds` passed.
        """
        deadline = time.monotonic() + seconds
        while not reached():
            for name, process in self._processes().items():
                if process.poll() is not None:
                    raise BenchmarkError(f"{name} ended with {process.returncode}:\n{self._last_lines(name)}")
            if time.monotonic() > deadline:
                logs = "\n".join(f"-- {name}\n{self._last_lines(name)}" for name in list(self._processes())[:3])
                raise BenchmarkError(f"waited {seconds:.0f} s for {what}, in vain\n{logs}")
            time.sleep(POLL_SECONDS)

    def job(self, job_id: str) -> dict[str, Any]:
        """The job as the server's database has it; asking costs the server nothing."""
        return next(job for job in read_summary(self.server_folder)["jobs"] if job["job_id"] == job_id)

    def rounds(self, job_id: str) -> tuple[list[records.RoundRow], list[records.ContributionRow]]:
        """The job's rounds by the server's record, without the making of the first model, and what sites did in them.

        Raises:
            BenchmarkError: a site took no part in a round, or the sites ended one with different models.
        """
        store = look_into(database_url(self.server_folder))
        try:
            with store.read() as connection:
                rows = [row for row in records.rounds(connection, job_id) if row.round > 0]
                parts = records.contributions(connection, job_id)
        finally:
            store.close()
        for row in rows:
            here = [part for part in parts if part.round == row.round]
            prints = {part.model_fingerprint for part in here}
            if len(prints) != 1 or b"" in prints or sum(part.sealed for part in here) != self.sites:
                raise BenchmarkError(f"round {row.round}: expected {self.sites} sites with equal models, got others")
        return rows, parts

    def stop(self) -> None:
        """Ends all processes by their ids: SIGTERM, and SIGKILL for what still runs after `STOP_SECONDS`."""
        processes = list(self._processes().values())
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for process in processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    # ---- how it comes to be ----

    def _provision(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        project = {
            "project": {"name": "benchmark"},
            "server": {"host": "localhost", "port": port},
            "sites": [*self.names, *self.others],
            "admins": [{"name": ADMIN, "role": "lead"}],
            "he": self.he,
        } | ({} if self.engine == PLAIN else {"engine": self.engine})
        file = self.folder / "project.yml"
        file.write_text(yaml.safe_dump(project), encoding="utf-8")
        loaded, now, kits = load_project(file), time.time(), self.folder / "coordinator"
        with locked(kits):
            outcome = carry_out(loaded, None, reconcile(loaded, None, Wishes(), now), now)
            write_outcome(kits, outcome)
        for kit in outcome.kits:
            role = "server" if kit.name == "server" else "admin" if kit.name == ADMIN else "site"
            unpack_kit(kits / "kits" / f"{kit.name}.kit", kit.passphrase, self._home(kit.name), expected_role=role)
        for number, name in enumerate(self.names, start=1):
            policy = {
                "job_code": "allow",
                "min_sites": 2,
                "environment": {"PARAMETERS": self.parameters, "SAMPLES": 10 * number},
            }
            (self._site_folder(name) / "policy.yml").write_text(yaml.safe_dump(policy), encoding="utf-8")

    def _start(self) -> None:
        program = [sys.executable, HERE / "plain_server.py"] if self.engine == PLAIN else [BIN / "fedhe-server"]
        self.server = self._spawn("server", *program, "start", "--home", self._home("server"))
        self.wait_for("the server", lambda: b"ready on" in self._log("server").read_bytes(), START_SECONDS)
        self._start_sites()

    def _start_sites(self) -> None:
        plain = ["--plain"] if self.engine == PLAIN else []
        for name in self.names:
            agent = self._spawn(name, sys.executable, HERE / "round_site.py", *plain, self._site_folder(name))
            self.agents[name] = agent
        self.wait_for("the sites to connect", self._all_connected, START_SECONDS)

    def _all_connected(self) -> bool:
        return all(b"connected to" in self._log(name).read_bytes() for name in self.names)

    def _home(self, name: str) -> Path:
        if name in {"server", ADMIN}:
            return self.folder / f"{name.partition('@')[0]}-home"
        return self.folder / "site-homes"

    def _site_folder(self, name: str) -> Path:
        return self._home(name) / "sites" / name

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _last_lines(self, name: str) -> str:
        return "\n".join(self._log(name).read_text(errors="replace").splitlines()[-LOG_LINES_TOLD:])

    def _processes(self) -> dict[str, subprocess.Popen[bytes]]:
        return ({"server": self.server} if self.server else {}) | self.agents

    def _spawn(self, name: str, *command: object) -> subprocess.Popen[bytes]:
        # One thread each: the sites share this computer's cores.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with self._log(name).open("wb") as log:
            return subprocess.Popen(
                [*map(str, command)], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment
            )
