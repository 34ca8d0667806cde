"""`fedhe-client` as people use it: install, status, jobs, policy."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedhe import __version__
from fedhe.cli.client import app
from fedhe.client.approvals import read_approvals
from fedhe.client.job_folder import JobFolder, JobRecord
from fedhe.client.status import only_agent
from fedhe.config.job_archive import read_job
from fedhe.errors import ConfigError, FedheError, NotFoundError, TrustError
from fedhe.provisioning.kit import pack_kit

PASSPHRASE = "correct horse battery staple"


@pytest.fixture
def client(tmp_path, monkeypatch):
    """Runs a command with this test's home; returns what it printed, or raises its error."""
    monkeypatch.setenv("FEDHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "400")

    def run(*arguments, answer=None):
        result = CliRunner().invoke(app, arguments, input=answer)
        if isinstance(result.exception, FedheError):
            raise result.exception
        assert result.exit_code == 0 or answer == "n\n", result.output
        return result.output

    return run


@pytest.fixture
def installed(tmp_path, project, client):
    return project.installed_site(tmp_path / "home", "A").folder


@pytest.fixture
def job_at_site(installed, project, make_job):
    """Puts a job into the site's folder as the agent would."""

    def put(job_id="j1", **options):
        archive = make_job(**options)
        job = read_job(archive)
        folder = JobFolder(installed / "jobs" / job_id)
        folder.create()
        folder.archive.write_bytes(project.sign_job(archive))
        folder.write(JobRecord(job_id=job_id, name=job.name, archive_digest=job.digest, submitted_by="lead", rounds=2))
        return job

    return put


def test_install_unpacks_the_kit_and_writes_a_policy(tmp_path, project, client, monkeypatch):
    kit = tmp_path / "A.kit"
    kit.write_bytes(pack_kit(project.kit_files("A"), PASSPHRASE, project="brain-mri", role="site", name="A"))
    monkeypatch.setenv("FEDHE_PASSPHRASE", "wrong")
    with pytest.raises(TrustError, match="passphrase"):
        client("install", str(kit))
    monkeypatch.setenv("FEDHE_PASSPHRASE", PASSPHRASE)
    said = client("install", str(kit))
    assert "site A of project brain-mri" in said
    policy = tmp_path / "home" / "sites" / "A" / "policy.yml"
    assert "min_sites: 2" in policy.read_text()
    policy.write_text("gpus: none\n")
    client("install", str(kit), "--replace")
    assert policy.read_text() == "gpus: none\n"


def test_without_a_kit_every_command_says_how_to_install_one(client):
    for command in (["status"], ["jobs", "list"], ["start"], ["policy", "show"]):
        with pytest.raises(NotFoundError) as caught:
            client(*command)
        assert caught.value.hint == "fedhe-client install KIT"


def test_of_several_sites_one_must_be_named(tmp_path, project, client, installed):
    project.installed_site(tmp_path / "home", "B")
    with pytest.raises(ConfigError, match="expected one of the sites A, B"):
        client("status")
    assert "site B" in client("status", "--site", "B")
    with pytest.raises(NotFoundError, match="site X is not installed"):
        client("--site", "X", "status")


def test_status_before_the_agent_ever_ran(client, installed):
    assert "not running" in client("status")
    assert json.loads(client("status", "--json"))["running"] is False


def test_jobs_are_listed_shown_approved_and_rejected(client, installed, job_at_site):
    job = job_at_site()
    listed = json.loads(client("jobs", "list", "--json"))
    assert [(row["job_id"], row["approval"], row["hash"]) for row in listed] == [("j1", "none", job.digest.hex())]
    shown = client("jobs", "show", "tiny")
    assert job.digest.hex() in shown
    assert "BYOC/net.py" in shown
    assert "all of it is new" in shown
    assert json.loads(client("jobs", "show", "j1", "--json"))["code"] == ["BYOC/net.py"]
    assert "Aborted" in client("jobs", "approve", "j1", answer="n\n") or not read_approvals(installed)
    assert "approved" in client("jobs", "approve", "j1", answer="y\n")
    assert read_approvals(installed)[job.digest.hex()].decision == "approved"
    client("jobs", "reject", "j1", "--reason", "too curious")
    assert read_approvals(installed)[job.digest.hex()].reason == "too curious"


def test_a_changed_job_shows_what_changed_since_the_approved_one(client, installed, job_at_site):
    job_at_site()
    client("jobs", "approve", "j1", "--yes")
    job = job_at_site("j2", code="WIDTH = 4\nopen('/etc/passwd')\n")
    said = client("jobs", "show", "j2")
    assert "~ changed  BYOC/net.py" in said
    assert "+open('/etc/passwd')" in said
    assert "-WIDTH = 3" in said
    assert job.digest.hex() not in read_approvals(installed)


def test_approval_by_hash_refuses_another_hash(client, installed, job_at_site):
    job = job_at_site()
    with pytest.raises(ConfigError, match="expected the hash"):
        client("jobs", "approve", "j1", "--yes", "--hash", "0" * 64)
    with pytest.raises(ConfigError, match="expected the hash"):
        client("jobs", "approve", "j1", "--yes", "--hash", job.digest.hex()[:8])
    client("jobs", "approve", "j1", "--yes", "--hash", job.digest.hex())
    assert job.digest.hex() in read_approvals(installed)


def test_a_job_file_that_was_changed_at_the_site_is_not_approved(client, installed, job_at_site, project, make_job):
    job_at_site()
    (installed / "jobs" / "j1" / "job.signed").write_bytes(project.sign_job(make_job(code="evil = 1\n")))
    with pytest.raises(FedheError, match="the one that came signed"):
        client("jobs", "approve", "j1", "--yes")
    assert read_approvals(installed) == {}


def test_an_unknown_job_is_one_line(client, installed, job_at_site):
    job_at_site()
    with pytest.raises(NotFoundError, match="no job 'j9' at this site; there is j1"):
        client("jobs", "show", "j9")


def test_policy_check_and_show(client, installed, tmp_path):
    (installed / "policy.yml").write_text(f"data_root: {tmp_path / 'none'}\n")
    assert "is not a folder" in client("policy", "check")
    assert json.loads(client("policy", "show", "--json"))["job_code"] == "approve"
    (installed / "policy.yml").write_text("job_cod: deny\n")
    with pytest.raises(ConfigError, match=r"policy.yml:1: unknown key 'job_cod'"):
        client("policy", "check")


def test_start_refuses_a_wrong_policy_and_a_second_agent(client, installed):
    (installed / "policy.yml").write_text("min_sites: 1\n")
    with pytest.raises(ConfigError, match="min_sites"):
        client("start")
    (installed / "policy.yml").unlink()
    with only_agent(installed), pytest.raises(FedheError, match="runs already"):
        client("start")


def test_start_refuses_keys_that_others_can_read(client, installed):
    (installed / "kit" / "he.key").chmod(0o644)
    with pytest.raises(TrustError, match=r"he\.key"):
        client("start")


def test_version_and_help_teach(client):
    assert __version__ in client("--version")
    assert "Example: fedhe-client" in client("jobs", "approve", "--help")


def test_the_agent_program_starts_says_what_it_waits_for_and_ends_on_sigterm(tmp_path, installed):
    """The real program, without a server: it waits, visibly, and ends cleanly; and it never loads torch."""
    code = "import sys\nfrom fedhe.cli.client import main\nsys.argv[1:] = ['start', '--site', 'A']\ntry:\n    main()\n"
    code += "finally:\n    print('TORCH' if 'torch' in sys.modules else 'LEAN')\n"
    environment = {**os.environ, "FEDHE_HOME": str(tmp_path / "home")}
    agent = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        status = Path(installed) / "status.json"
        for _ in range(400):
            if status.exists() and json.loads(status.read_text())["connection"] == "waiting":
                break
            time.sleep(0.05)
        said = json.loads(status.read_text())
        assert said["connection"] == "waiting"
        assert "cannot be reached" in said["message"]
        agent.send_signal(signal.SIGTERM)
        out, errors = agent.communicate(timeout=30)
    finally:
        agent.kill()
        agent.wait()
    assert agent.returncode == 0, errors.decode()
    assert b"LEAN" in out
    assert b"connecting to localhost:1" in errors
    assert b"Traceback" not in errors
