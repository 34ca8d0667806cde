"""Real programs: a hospital joins a running job, another loses its computer and is rebuilt from its kit."""

import json
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

pytestmark = pytest.mark.slow
TINY_JOB = Path(__file__).parent / "tiny_job"
NEW = "hospitalD"


@pytest.fixture
def long_job(tmp_path):
    folder = tmp_path / "tiny"
    shutil.copytree(TINY_JOB, folder)
    config = folder / "config" / "config_fed.yml"
    config.write_text(re.sub(r"rounds: \d+", "rounds: 6", config.read_text()))
    return folder


def install(federation, site, secrets):
    kit = next(kit for kit in (federation.folder / "out" / "kits").iterdir() if kit.stem == site)
    federation.run("fedhe-client", "install", kit, "--home", federation.home(site), "--passphrase-file", secrets)
    federation.policy(site)


def test_a_newcomer_and_a_site_that_lost_its_computer_end_with_everybodys_model(federation, long_job):
    federation.start_server()
    job = federation.submit(long_job)
    lost = federation.sites[2]
    for site in federation.sites:
        federation.start_site(site)
    federation.wait(lambda: federation.job(job)["model_version"] >= 1, "version 1")

    project = federation.folder / "project.yml"
    project.write_text(project.read_text().replace(f"  - {lost}\n", f"  - {lost}\n  - {NEW}\n"))
    secrets, out = federation.folder / "passphrases-2.json", federation.folder / "out"
    federation.run("fedhe-provision", project, "--out", out, "--yes", "--passphrases", secrets)
    federation.admin("roster", "update", out / "roster.signed")
    federation.sites = (*federation.sites, NEW)
    install(federation, NEW, secrets)
    federation.start_site(NEW)

    federation.stop(lost, signal.SIGKILL)
    shutil.rmtree(federation.home(lost))
    install(federation, lost, federation.folder / "passphrases.json")
    federation.start_site(lost)

    federation.wait_for_phase(job, "finished")
    rounds = federation.ask("rounds", "list", job)["rounds"]
    assert NEW not in rounds[0]["contributors"]
    assert sorted(rounds[-1]["contributors"]) == list(federation.sites)
    folders = {site: federation.site_folder(site) / "jobs" / job for site in federation.sites}

    def all_there():
        states = [json.loads((folder / "state.json").read_text()) for folder in folders.values()]
        return all(state["acknowledged"] == 6 for state in states)

    federation.wait(all_there, "the last model at all sites")
    models = [load_file(folder / "model-6.safetensors") for folder in folders.values()]
    for model in models[1:]:
        for name, tensor in model.items():
            np.testing.assert_array_equal(tensor, models[0][name])
