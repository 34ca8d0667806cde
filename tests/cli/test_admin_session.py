"""The way to the server: which kit, which server, and every way it can fail as one line."""

import json
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from fedhe.cli.admin import main
from fedhe.cli.admin_session import RETRIES, AdminSession, admin_folder
from fedhe.errors import ConfigError, NotFoundError, UnavailableError
from fedhe.provisioning.issue import Issued, issue_certificate, make_authority
from fedhe.provisioning.state import load_state
from fedhe.wire import admin, federation


def move_server(home, **where):
    """Lets the installed lead look for its server somewhere else."""
    file = home / "admins" / "lead" / "kit" / "kit.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | where))
    return home


@pytest.fixture
def lead_home(provisioned, tmp_path):
    return provisioned.home_of(tmp_path / "home", "lead")


def test_the_only_admin_that_is_installed_needs_no_name(lead_home):
    assert admin_folder(lead_home, None) == lead_home / "admins" / "lead"


def test_without_a_kit_the_error_says_how_to_install_one(fedhe_admin, tmp_path):
    code, out, err = fedhe_admin("status", name=None, home=tmp_path)
    assert (code, out) == (6, "")
    assert err.count("\n") == 1
    assert "fedhe-admin install KIT" in err


def test_of_several_admins_one_must_be_named(provisioned):
    with pytest.raises(ConfigError, match="deputy, lead, watcher") as caught:
        admin_folder(provisioned.home, None)
    assert "--as" in caught.value.hint


def test_an_admin_that_is_not_installed_is_told_with_those_that_are(provisioned):
    with pytest.raises(NotFoundError, match="no admin 'boss'") as caught:
        admin_folder(provisioned.home, "boss")
    assert "lead" in caught.value.hint


def test_home_and_name_may_stand_before_or_behind_the_command(fedhe_admin, provisioned, script, tmp_path):
    behind = ("status", "--home", provisioned.home, "--as", "watcher")
    assert fedhe_admin(*behind, name=None, home=tmp_path)[0] == 0
    assert script.calls == [("GetStatus", "watcher")]


def test_the_home_may_come_from_the_environment(monkeypatch, capsys, provisioned, script):
    monkeypatch.setenv("FEDHE_HOME", str(provisioned.home))
    monkeypatch.setenv("FEDHE_ADMIN", "deputy")
    monkeypatch.setattr("sys.argv", ["fedhe-admin", "status"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 0
    assert script.calls == [("GetStatus", "deputy")]


def test_a_server_that_does_not_listen_is_unreachable(fedhe_admin, lead_home, free_port):
    code, out, err = fedhe_admin("status", name=None, home=move_server(lead_home, port=free_port))
    assert (code, out) == (5, "")
    assert err.count("\n") == 1
    assert f"localhost:{free_port} is unreachable" in err
    assert "fedhe-server start" in err


def test_a_name_that_does_not_resolve_is_unreachable(fedhe_admin, lead_home):
    code, _, err = fedhe_admin("status", name=None, home=move_server(lead_home, host="fl.invalid"))
    assert code == 5
    assert err.count("\n") == 1
    assert "fl.invalid" in err


@pytest.fixture
def foreign(provisioned):
    """Another authority that uses the same project name, and a server's certificate for localhost by it."""
    now = provisioned.server.identity.not_after - 300 * 86400
    authority = make_authority("trial", days=600, now=now)
    server = issue_certificate(
        authority, project="trial", role="server", name="server", hosts=["localhost"], days=600, now=now
    )
    return authority, server


@pytest.fixture
def lead_home_at(serve, script, lead_home, free_port):
    """Starts a server that uses this kit; returns a home whose lead looks for it there."""

    def start(installation):
        serve(script, free_port, installation)
        return move_server(lead_home, port=free_port)

    return start


def test_a_server_of_another_authority_is_not_trusted(fedhe_admin, lead_home_at, script, provisioned, foreign):
    _, server = foreign
    fake = replace(provisioned.server, certificate_pem=server.certificate_pem, private_key_pem=server.key_pem)
    code, _, err = fedhe_admin("status", name=None, home=lead_home_at(fake))
    assert code == 3
    assert err.count("\n") == 1
    assert "does not show a certificate of project 'trial'" in err
    assert script.calls == []


def test_a_server_under_another_name_than_its_certificate_has_is_not_trusted(
    fedhe_admin, lead_home_at, script, provisioned
):
    """The right authority vouches for it, but as another computer."""
    state = load_state(provisioned.out)
    authority = Issued(state.ca_pem, state.ca_key_pem, state.ca_serial, state.ca_not_after)
    moved = issue_certificate(
        authority, project="trial", role="server", name="server", hosts=["fl.example.org"], days=1, now=time.time()
    )
    home = lead_home_at(
        replace(provisioned.server, certificate_pem=moved.certificate_pem, private_key_pem=moved.key_pem)
    )
    code, _, err = fedhe_admin("status", name=None, home=home)
    assert code == 3
    assert err.count("\n") == 1
    assert "for that name: Hostname Verification Check failed" in err
    assert script.calls == []


def test_a_server_that_trusts_another_authority_lets_nobody_in(fedhe_admin, lead_home_at, script, provisioned, foreign):
    authority, _ = foreign
    deaf = replace(provisioned.server, ca_pem=authority.certificate_pem)
    code, _, err = fedhe_admin("status", name=None, home=lead_home_at(deaf))
    assert code == 5
    assert err.count("\n") == 1
    assert "closed the connection" in err
    assert script.calls == []


def test_a_failed_handshake_is_one_line_even_at_the_level_of_the_process(lead_home_at, provisioned, foreign):
    """gRPC's core has a log of its own, which goes around Python to standard error."""
    _, server = foreign
    home = lead_home_at(
        replace(provisioned.server, certificate_pem=server.certificate_pem, private_key_pem=server.key_pem)
    )
    done = subprocess.run(
        [sys.executable, "-c", "from fedhe.cli.admin import main; main()", "--home", str(home), "status"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("error: server localhost:")
    assert done.stderr.count("\n") == 1


def test_a_key_that_others_can_read_is_refused(fedhe_admin, lead_home):
    (lead_home / "admins" / "lead" / "kit" / "key.pem").chmod(0o644)
    code, _, err = fedhe_admin("status", name=None, home=lead_home)
    assert code == 3
    assert err.count("\n") == 1
    assert "key.pem" in err


def test_an_observer_is_refused_what_only_a_lead_may(fedhe_admin, script, trained):
    for command in [
        ("jobs", "start", trained.job_id),
        ("jobs", "abort", trained.job_id, "--yes"),
        ("jobs", "delete", trained.job_id, "--yes"),
        ("sites", "disable", "hospitalA"),
        ("shutdown", "--yes"),
    ]:
        code, out, err = fedhe_admin(*command, name="watcher")
        assert (code, out) == (3, "")
        assert err.count("\n") == 1
        assert "expected role lead" in err
        assert "ask a lead admin" in err


def test_an_observer_may_look(fedhe_admin, script, trained):
    for command in [
        ("status",),
        ("sites", "list"),
        ("jobs", "list"),
        ("jobs", "show", "tiny"),
        ("rounds", "list", "tiny"),
    ]:
        assert fedhe_admin(*command, name="watcher")[0] == 0


def test_a_server_that_goes_away_for_a_moment_costs_one_call_again(provisioned, script, trained, monkeypatch):
    monkeypatch.setattr("fedhe.cli.admin_session.FIRST_BACK_OFF_SECONDS", 0.001)
    away = UnavailableError("the server restarts")
    script.failures = [("GetChunk", away), ("GetChunk", away)]
    ref = federation.ObjectRef(job_id=trained.job_id, kind=federation.OBJECT_KIND_CHECKPOINT, number=2)
    requests = [federation.GetChunkRequest(object=ref, index=index) for index in (0, 1, 0, 1)]
    with AdminSession.open(provisioned.home, "lead") as session:
        replies = list(session.pipeline("GetChunk", requests, ahead=2, seconds=30))
    assert [reply.index for reply in replies] == [0, 1, 0, 1]
    assert script.failures == []


def test_a_server_that_stays_away_is_given_up_after_some_calls(provisioned, script, monkeypatch):
    monkeypatch.setattr("fedhe.cli.admin_session.FIRST_BACK_OFF_SECONDS", 0.001)
    script.failures = [("GetStatus", UnavailableError("the server restarts"))] * (RETRIES + 1)
    with AdminSession.open(provisioned.home, "lead") as session, pytest.raises(UnavailableError):
        list(session.pipeline("GetStatus", [admin.GetStatusRequest()], ahead=1, seconds=30))
    assert script.failures == []


def test_a_server_that_never_answers_is_given_up(provisioned, script):
    script.hold = threading.Event()
    session = AdminSession.open(provisioned.home, "lead")
    with session, pytest.raises(UnavailableError, match="did not answer within 1 s"):
        session.call("GetStatus", admin.GetStatusRequest(), seconds=1)
    script.hold.set()
