"""The federation that faults happen to: each program can be ended and started again, all behind one bad network."""

import contextlib
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml
from faults_proxy import Proxy
from faults_schedule import ROUNDS, SERVER, SITES
from round_federation import HERE, Federation

from fedhe.server.database import DATABASE_FILE
from fedhe.trust import audit_log

PARAMETERS = 500_000  # three chunks of a ciphertext, two of a checkpoint
CHECKPOINT_EVERY = 2  # so that sites seal while they train, too


def provision(folder: Path, engine: str) -> None:
    """Makes the homes of a server, sites and an admin, to be copied for each run."""
    folder.mkdir(parents=True)
    _Template(folder, engine, len(SITES), PARAMETERS).provision()


class _Template(Federation):
    def provision(self) -> None:
        self._provision()


@dataclass
class Seen:
    """What was last seen of a job, from outside.

    Attributes:
        phase: of the job; `submitted` before there is one.
        round: of the job.
        state: the round machine's state as JSON text.
        lines: kind and round of each line of each site's audit log.
    """

    phase: str = "submitted"
    round: int = 0
    state: str = ""
    lines: dict[str, list[tuple[str, int]]] = field(default_factory=lambda: {site: [] for site in SITES})

    @property
    def progress(self) -> tuple[object, ...]:
        """Changes whenever the job has come a step further."""
        return self.state, *(len(lines) for lines in self.lines.values())


@dataclass
class Laboratory(Federation):
    """A federation of `faults_schedule.SITES` in a copy of a template's homes."""

    template: Path = Path()
    proxy: Proxy = field(init=False)
    seen: Seen = field(default_factory=Seen)
    orders: dict[str, dict[str, str]] = field(default_factory=dict)
    _begins: int = 0
    _database: sqlite3.Connection | None = None
    _read: dict[str, int] = field(default_factory=dict)

    def _provision(self) -> None:
        for name in ("server-home", "admin-home", "site-homes"):
            shutil.copytree(self.template / name, self.folder / name)
        for name in ("tmp", *(f"orders/{one}" for one in (SERVER, *SITES))):
            (self.folder / name).mkdir(parents=True)
        for name, files in self.orders.items():
            for file, content in files.items():
                (self.folder / "orders" / name / file).write_text(content, encoding="utf-8")
        port = yaml.safe_load((self.template / "project.yml").read_text())["server"]["port"]
        self.proxy = Proxy(port, free_port())
        self.proxy.__enter__()

    def _start(self) -> None:
        for name in (SERVER, *SITES):
            self.start(name)

    def stop(self) -> None:
        """Ends all programs and the network."""
        super().stop()
        if self._database is not None:
            self._database.close()
        with contextlib.suppress(AttributeError):
            self.proxy.__exit__(None, None, None)

    # ---- programs ----

    def start(self, name: str) -> None:
        """Starts a program, for the first time or again."""
        orders = self.folder / "orders" / name
        home = self._home(SERVER) if name == SERVER else self._site_folder(name)
        (orders / "within").write_text(str(home), encoding="utf-8")
        program = [sys.executable, HERE / "faults_program.py", orders]
        if name == SERVER:
            self._begins = self._log(name).stat().st_size if self._log(name).exists() else 0
            listen = f"127.0.0.1:{self.proxy.target}"
            self.server = self._spawn(name, *program, "server", "start", "--home", home, "--listen", listen)
        else:
            self.agents[name] = self._spawn(name, *program, "site", home)

    @property
    def is_ready(self) -> bool:
        """Whether the server's newest process takes calls."""
        return b"ready on" in self._log(SERVER).read_bytes()[self._begins :]

    def process(self, name: str) -> subprocess.Popen[bytes]:
        """A program's newest process."""
        process = self.server if name == SERVER else self.agents[name]
        if process is None:
            raise AssertionError("the server is started first")
        return process

    def kill(self, name: str) -> None:
        """Ends a program with SIGKILL."""
        self.process(name).kill()
        self.process(name).wait()

    def trainer(self, site: str) -> int | None:
        """The process id of the site's training process, if one runs."""
        for file in self._site_folder(site).glob("jobs/*/training/pid"):
            with contextlib.suppress(OSError, ValueError):
                return int(file.read_text().split()[0])
        return None

    def move(self) -> None:
        """From the next start on, the server is at another address."""
        self.proxy.target = free_port()

    def home_of(self, name: str) -> Path:
        """The folder that a program keeps everything in."""
        return self._home(SERVER) if name == SERVER else self._site_folder(name)

    def set_clock(self, name: str, seconds: float) -> None:
        """Has a program's clock off by `seconds`."""
        file = self.folder / "orders" / name / "clock"
        file.with_suffix(".new").write_text(str(seconds), encoding="utf-8")
        file.with_suffix(".new").replace(file)

    def changes(self, name: str) -> int:
        """How often a program that has ended well changed its disk."""
        return int((self.folder / "orders" / name / "changes").read_text())

    def is_to_die_again(self, name: str) -> bool:
        """Whether the next process of a program is ordered to die as well."""
        return (self.folder / "orders" / name / "die-at").exists()

    def journal(self, name: str) -> Path:
        """What a program changed on its disk, and flushed; see faults_program.py."""
        return self.folder / "orders" / name / "journal"

    def descriptors(self) -> dict[str, int]:
        """Number of open files and sockets of each program."""
        return {name: psutil.Process(process.pid).num_fds() for name, process in self._processes().items()}

    def strays(self) -> list[str]:
        """Processes of this federation that are none of its programs, nor the summing workers of its server."""
        known = {process.pid for process in self._processes().values()}
        found = []
        for process in psutil.process_iter(["pid", "ppid", "cmdline"]):
            line = " ".join(process.info["cmdline"] or ())
            if process.info["pid"] in known or "fedhe.server.summing" in line:
                continue
            if str(self.folder) in line or process.info["ppid"] in known:
                found.append(f"{process.info['pid']} {line[:200]}")
        return found

    # ---- what can be seen of the job ----

    def look(self) -> Seen:
        """Reads the server's database and the sites' audit logs, as they are on the disk."""
        with contextlib.suppress(sqlite3.Error):
            if self._database is None:
                file = self.server_folder / DATABASE_FILE
                self._database = sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=1.0)
            row = self._database.execute("select state from jobs").fetchone()
            if row is not None and row[0] != self.seen.state:
                state = json.loads(row[0])
                self.seen.phase, self.seen.round, self.seen.state = state["phase"], state["round"], row[0]
        for site in SITES:
            with contextlib.suppress(OSError):
                size = (file := self._site_folder(site) / "audit.log").stat().st_size
                if size != self._read.get(site):
                    self._read[site] = size
                    self.seen.lines[site] = [_kind_and_round(line) for line in audit_log.read(file)]
        return self.seen

    def _spawn(self, name: str, *command: object) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        environment["TMPDIR"] = str(self.folder / "tmp")
        with self._log(name).open("ab") as log:
            return subprocess.Popen(
                [*map(str, command)], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment
            )

    def submit_job(self) -> str:
        """Submits and starts the job that all runs carry out; returns its id."""
        return self.submit(ROUNDS, checkpoint_every=CHECKPOINT_EVERY)

    def forget_job_folder(self) -> None:
        """After a submission that was cut, so that it can be made again."""
        shutil.rmtree(self.folder / "job", ignore_errors=True)

    def printed(self, name: str) -> str:
        """All that a program printed, in all its lives."""
        return self._log(name).read_text(errors="replace")

    def last_lines(self, name: str) -> str:
        """What a program printed last."""
        return self._last_lines(name)

    def wait_a_moment(self) -> None:
        """Between two looks."""
        time.sleep(LOOK_SECONDS)


LOOK_SECONDS = 0.02


def _kind_and_round(line: Mapping[str, Any]) -> tuple[str, int]:
    return str(line["kind"]), int(line["fields"].get("round", 0))


def free_port() -> int:
    """A port of this computer that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
