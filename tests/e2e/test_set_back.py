"""Real programs: a server that comes back from an old backup is noticed, and no second history begins."""

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


@pytest.fixture
def long_job(tmp_path):
    folder = tmp_path / "tiny"
    shutil.copytree(TINY_JOB, folder)
    config = folder / "config" / "config_fed.yml"
    config.write_text(re.sub(r"rounds: \d+", "rounds: 6", config.read_text()))
    return folder


def version(federation, site, job):
    state = json.loads((federation.site_folder(site) / "jobs" / job / "state.json").read_text())
    return state["acknowledged"]


def test_a_backup_of_round_two_restored_in_round_four_leads_no_site_a_second_way(federation, long_job, tmp_path):
    federation.start_server()
    job = federation.submit(long_job)
    for site in federation.sites:
        federation.start_site(site)
    federation.wait(lambda: federation.job(job)["model_version"] >= 2, "version 2")
    backup = tmp_path / "fedhe.tar"
    federation.run("fedhe-server", "backup", backup, "--home", federation.home("server"))
    federation.wait(
        lambda: min(version(federation, site, job) for site in federation.sites) >= 4, "version 4 at all sites"
    )
    for name in (*federation.sites, "server"):
        federation.stop(name, signal.SIGKILL)
    held = {site: version(federation, site, job) for site in federation.sites}

    def model(site):
        return load_file(federation.site_folder(site) / "jobs" / job / f"model-{held[site]}.safetensors")

    models = {site: model(site) for site in federation.sites}
    server = federation.home("server") / "server"
    for entry in server.iterdir():
        if entry.name != "kit":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    federation.run("fedhe-server", "restore", backup, "--home", federation.home("server"))
    federation.start_server()
    for site in federation.sites:
        federation.start_site(site)

    def seen():
        return {site["site"]: site["model_version"] for site in federation.ask("jobs", "show", job)["sites"]}

    federation.wait(lambda: seen() == held, "the sites' versions in jobs show")
    refused = federation.admin("jobs", "resume", job, check=False)
    assert refused.returncode == 6
    assert refused.stderr.count("\n") == 1
    assert f"hospitalA holds version {held['hospitalA']}" in refused.stderr
    assert "was it restored from an old backup?" in refused.stderr
    shown = federation.ask("jobs", "show", job)
    assert shown["paused_at"] is not None
    assert shown["model_version"] < 4
    for site in federation.sites:
        status = json.loads((federation.site_folder(site) / "status.json").read_text())
        assert "the server was restored from a backup" in status["jobs"][0]["message"]
        assert version(federation, site, job) == held[site]
        for name, tensor in model(site).items():
            np.testing.assert_array_equal(tensor, models[site][name])
