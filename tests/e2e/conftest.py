"""A whole federation on this machine: the real commands, real processes, real sockets, real TLS."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
TINY_JOB = HERE / "tiny_job"
SITES = ("hospitalA", "hospitalB", "hospitalC")
CASES = {"hospitalA": 3, "hospitalB": 5, "hospitalC": 2}
PATIENCE_SECONDS = 240  # a limit on hanging, not an expectation


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Federation:
    """Provisioned participants with one home each, as if on computers of their own."""

    def __init__(self, folder: Path, *, sites=SITES, port: int | None = None, engine: str = "seal") -> None:
        self.folder, self.sites, self.port, self.engine = folder, sites, port or free_port(), engine
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "200"}
        self.environment.pop("FEDHE_HOME", None)

    def home(self, name: str) -> Path:
        return self.folder / "homes" / name

    def run(self, program: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [str(BIN / program), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment, check=False, timeout=240)
        assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def provision(self) -> None:
        project = self.folder / "project.yml"
        names = "\n".join(f"  - {site}" for site in self.sites)
        project.write_text(
            f"project:\n  name: e2e\nengine: {self.engine}\n"
            f"server:\n  host: localhost\n  port: {self.port}\nsites:\n{names}\nadmins:\n"
            "  - {name: lead, role: lead, holds_key: true}\n  - {name: watcher, role: observer}\n"
        )
        secrets = self.folder / "passphrases.json"
        out = self.folder / "out"
        self.run("fedhe-provision", project, "--out", out, "--yes", "--passphrases", secrets)
        for program, names in (
            ("fedhe-server", ["server"]),
            ("fedhe-client", self.sites),
            ("fedhe-admin", ["lead", "watcher"]),
        ):
            for name in names:
                kits = [kit for kit in (out / "kits").iterdir() if kit.stem == name or kit.name.startswith(f"{name}.")]
                home = self.home("admin" if program == "fedhe-admin" else name)
                self.run(program, "install", kits[0], "--home", home, "--passphrase-file", secrets)
        for site in self.sites:
            self.policy(site)

    def policy(self, site: str, **changes: object) -> None:
        policy = {
            "job_code": "allow",
            "record_updates": True,
            "environment": {"CASES": CASES.get(site, 2), "SLOPE": 0.5 + 0.2 * self.sites.index(site)},
            **changes,
        }
        (self.site_folder(site) / "policy.yml").write_text(json.dumps(policy))  # JSON is YAML

    def site_folder(self, site: str) -> Path:
        return self.home(site) / "sites" / site

    def spawn(self, name: str, *command: object) -> subprocess.Popen[bytes]:
        log = (self.folder / f"{name}.out").open("ab")
        with log:
            process = subprocess.Popen(
                list(map(str, command)), stdout=log, stderr=subprocess.STDOUT, env=self.environment
            )
        self.processes[name] = process
        return process

    def start_server(self, *, program: tuple[object, ...] | None = None) -> None:
        program = program or (BIN / "fedhe-server",)
        before = self.output("server").count("ready on")
        self.spawn("server", *program, "start", "--home", self.home("server"))
        self.wait(lambda: self.output("server").count("ready on") > before, "server to be ready")

    def start_site(self, site: str) -> None:
        self.spawn(site, BIN / "fedhe-client", "start", "--site", site, "--home", self.home(site))

    def stop(self, name: str, how: signal.Signals = signal.SIGTERM) -> int:
        process = self.processes.pop(name)
        process.send_signal(how)
        return process.wait(timeout=60)

    def stop_all(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()

    def output(self, name: str) -> str:
        path = self.folder / f"{name}.out"
        return path.read_text(errors="replace") if path.exists() else ""

    def admin(self, *arguments: object, who: str = "lead", check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run("fedhe-admin", "--home", self.home("admin"), "--as", who, *arguments, check=check)

    def ask(self, *arguments: object, who: str = "lead") -> object:
        return json.loads(self.admin(*arguments, "--json", who=who).stdout)

    def job(self, job_id: str) -> dict[str, object]:
        return next(job for job in self.ask("jobs", "list") if job["job_id"] == job_id)

    def submit(self, folder: Path = TINY_JOB) -> str:
        return self.ask("jobs", "submit", folder, "--start")["job_id"]

    def wait(self, reached, what: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not reached():
            for name, process in self.processes.items():
                assert process.poll() is None, f"{name} ended with {process.returncode}:\n{self.output(name)[-3000:]}"
            assert time.monotonic() < deadline, f"no {what}; logs:\n" + "\n".join(
                f"--- {name}\n{self.output(name)[-2500:]}" for name in self.processes
            )
            time.sleep(1.0)

    def wait_for_phase(self, job_id: str, *phases: str) -> dict[str, object]:
        found: dict[str, object] = {}

        def reached() -> bool:
            found.update(self.job(job_id))
            assert found["phase"] in phases or found["phase"] not in {"failed", "aborted"}, found["message"]
            return found["phase"] in phases

        self.wait(reached, f"job in phase {' or '.join(phases)}")
        return found


@pytest.fixture(scope="module")
def federation(tmp_path_factory, request):
    """A provisioned, running federation of three sites, shared by the tests of a module; with the module's ENGINE."""
    engine = getattr(request.module, "ENGINE", "seal")
    made = Federation(tmp_path_factory.mktemp("federation"), engine=engine)
    made.provision()
    try:
        yield made
    finally:
        made.stop_all()
