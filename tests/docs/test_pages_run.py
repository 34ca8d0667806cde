"""The pages for coordinator, hospital, data scientist, security officer and operator, run as one story on one computer.

A comment above a block says when it runs: `run: N`, `background: N: text to wait for`, `each site: N`, `each site
background: N: text`. `write: FILE` above a YAML block puts it there. The story's job is a small one, under the name
that the pages use, and the server is this computer.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TINY_JOB = ROOT / "tests" / "e2e" / "tiny_job"
PAGES = ["coordinator.md", "hospital.md", "data-scientist.md", "security-officer.md", "operator.md"]
SITES = ["hospitalA", "hospitalB", "hospitalC"]
WRITE = re.compile(r"<!-- write: (?P<file>\S+) -->\n```\w+\n(?P<body>.*?)```", re.DOTALL)
PATIENCE_SECONDS = 120
BASH = "/bin/bash"


@pytest.fixture
def computer(tmp_path):
    """A fresh computer: an empty home, the examples, and the commands on the path; all it started is ended."""
    job = tmp_path / "examples" / "brain_tissue"
    shutil.copytree(TINY_JOB, job)
    fed = job / "config" / "config_fed.yml"
    fed.write_text(fed.read_text().replace("name: tiny", "name: brain_tissue").replace("rounds: 2", "rounds: 1"))
    started = []
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "FEDHE_HOME": str(tmp_path / "home"),
        "OMP_NUM_THREADS": "1",
        "NO_COLOR": "1",
    }

    def run(text, wait_for=None):
        if wait_for is None:
            done = subprocess.run(
                [BASH, "-c", text], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240,
                check=False, stdin=subprocess.DEVNULL,
            )  # fmt: skip
            assert done.returncode == 0, f"$ {text}\n{done.stdout}\n{done.stderr}"
            return done.stdout
        log = tmp_path / f"background-{len(started)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [BASH, "-c", f"exec {text}"], cwd=tmp_path, env=environment, stdout=output, stderr=output
            )
        started.append(process)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while wait_for not in log.read_text():
            assert process.poll() is None, f"$ {text}\n{log.read_text()}"
            assert time.monotonic() < deadline, f"$ {text}\n{log.read_text()}"
            time.sleep(0.2)
        return log.read_text()

    yield tmp_path, run
    for process in reversed(started):
        process.terminate()
    for process in started:
        process.wait(timeout=60)


def steps(documented_commands):
    """Number, command and text to wait for, for each marked command, in order."""
    found = []
    for page in PAGES:
        for command in documented_commands[f"docs/{page}"]:
            if not command.mark:
                continue
            number, _, ready = command.value.partition(":")
            names = SITES if command.mark.startswith("each site") else [SITES[0]]
            wait_for = ready.strip() if command.mark.endswith("background") else None
            found += [(int(number), command.text.replace("hospitalA", name), wait_for) for name in names]
    return sorted(found, key=lambda step: step[0])


def test_every_page_runs_from_provisioning_to_the_downloaded_model(documented_commands, computer):
    folder, run = computer
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    for page in PAGES:
        for block in WRITE.finditer((ROOT / "docs" / page).read_text()):
            text = block["body"].replace("fl.example.org", "localhost").replace("8443", port)
            (folder / block["file"]).write_text(text)
    ran = [run(text, wait_for) for _, text, wait_for in steps(documented_commands)]
    assert len(ran) > 30
    assert (folder / "brain_tissue.safetensors").stat().st_size > 1000
    assert (folder / "brain_tissue.pt").stat().st_size > 1000
    assert "hospitalD" in run("fedhe-admin sites list")
