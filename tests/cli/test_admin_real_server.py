"""`fedhe-admin` against a real `fedhe-server` process: what the scripted one promises, the real one keeps."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

SERVER = [sys.executable, "-c", "from fedhe.cli.server import main; main()"]


@pytest.fixture(scope="module")
def real(provisioned, tmp_path_factory):
    """A server process with a home of its own; returns the home, in which the admins look for that server."""
    home = tmp_path_factory.mktemp("real") / "home"
    shutil.copytree(provisioned.home, home)
    with (home.parent / "server.log").open("w") as log:
        server = subprocess.Popen(
            [*SERVER, "start", "--home", str(home), "--listen", "localhost:0"],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        ready = server.stdout.readline()
        assert "fedhe-server ready on" in ready, (home.parent / "server.log").read_text()
        port = int(ready.rpartition(":")[2])
        for kit in (home / "admins").glob("*/kit/kit.json"):
            kit.write_text(json.dumps(json.loads(kit.read_text()) | {"port": port}))
        yield home
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@pytest.fixture
def ask(fedhe_admin, real):
    """Runs an admin command with --json against the real server."""

    def run(*arguments, name="lead"):
        code, out, err = fedhe_admin(*arguments, "--json", name=name, home=real)
        assert (code, err) == (0, "")
        return json.loads(out)

    return run


def test_status(ask):
    status = ask("status", name="watcher")
    assert status["project"] == "trial"
    assert status["sites_known"] == 3
    assert status["sites_online"] == 0
    assert status["peak_rss_bytes"] > 1_000_000
    assert len(bytes.fromhex(status["key_id"])) == 16


def test_sites(ask, fedhe_admin, real):
    assert [site["name"] for site in ask("sites", "list")] == ["hospitalA", "hospitalB", "hospitalC"]
    assert fedhe_admin("sites", "disable", "hospitalB", home=real)[0] == 0
    assert [site["enabled"] for site in ask("sites", "list")] == [True, False, True]
    assert fedhe_admin("sites", "enable", "hospitalB", home=real)[0] == 0
    assert all(site["enabled"] for site in ask("sites", "list"))


def test_a_job_from_submission_to_deletion(ask, fedhe_admin, real, job_folder):
    job_id = ask("jobs", "submit", job_folder)["job_id"]
    (job,) = ask("jobs", "list", name="watcher")
    assert (job["job_id"], job["name"], job["phase"], job["submitted_by"]) == (job_id, "tiny", "submitted", "lead")
    assert ask("jobs", "show", job_id)["archive_digest"] == ask("jobs", "check", job_folder)["archive_digest"]
    assert fedhe_admin("jobs", "start", job_id, home=real)[0] == 0
    assert ask("jobs", "show", job_id)["phase"] == "seeding"
    assert ask("rounds", "list", job_id)["rounds"] == []
    code, _, err = fedhe_admin("model", "download", job_id, "--out", job_folder / "model.safetensors", home=real)
    assert code == 6
    assert "no checkpoint yet" in err
    code, _, err = fedhe_admin("jobs", "delete", job_id, "--yes", home=real)
    assert code == 6
    assert err.count("\n") == 1
    assert fedhe_admin("jobs", "abort", job_id, "--reason", "wrong rate", "--yes", home=real)[0] == 0
    code, out, err = fedhe_admin("rounds", "watch", job_id, home=real)
    assert code == 6
    assert "aborted" in out
    assert "wrong rate" in err
    assert fedhe_admin("jobs", "delete", job_id, "--yes", home=real)[0] == 0
    assert ask("jobs", "list") == []


def test_an_observer_may_not_change_anything(fedhe_admin, real, job_folder):
    for command in [("jobs", "submit", job_folder), ("sites", "disable", "hospitalA"), ("shutdown", "--yes")]:
        code, out, err = fedhe_admin(*command, name="watcher", home=real)
        assert (code, out) == (3, "")
        assert err.count("\n") == 1
        assert "watcher" in err


def test_a_job_that_nobody_knows(fedhe_admin, real):
    code, _, err = fedhe_admin("jobs", "show", "nobody", home=real)
    assert code == 6
    assert err.count("\n") == 1


def test_the_servers_log(fedhe_admin, real):
    code, out, _ = fedhe_admin("logs", "--source", "server", "--json", home=real)
    assert code == 0
    lines = [json.loads(line) for line in out.splitlines()]
    assert lines
    assert {line["source"] for line in lines} == {"server"}


def test_the_rosters_version_must_grow(fedhe_admin, real, provisioned):
    """The same roster again is no harm, and nothing is lost."""
    code, _, err = fedhe_admin("roster", "update", provisioned.out / "roster.signed", home=real)
    assert code in {0, 3, 6}
    assert err.count("\n") <= 1
    assert fedhe_admin("status", home=real)[0] == 0


def test_the_health_check_of_the_image_finds_the_server_well(real):
    done = subprocess.run(
        [*SERVER, "health", "--home", str(real)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=os.environ | {"COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stderr
