"""`fedhe-admin` as a whole: install, status, sites, roster, shutdown, help."""

import re
import shutil
import subprocess
import sys

import pytest
import typer

from fedhe import __version__
from fedhe.cli import provision
from fedhe.cli.admin import app

NEEDS_LEAD = {
    "disable",
    "enable",
    "submit",
    "start",
    "abort",
    "delete",
    "update",
    "shutdown",
    "pause",
    "resume",
    "change",
    "drain",
}


def every_command(command, path=()):
    if hasattr(command, "commands"):
        for name, inner in command.commands.items():
            yield from every_command(inner, (*path, name))
    else:
        yield path, command


COMMANDS = list(every_command(typer.main.get_command(app)))


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=[" ".join(path) for path, _ in COMMANDS])
def test_the_help_of_each_command_teaches_with_an_example(fedhe_admin, monkeypatch, path, command):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = fedhe_admin(*path, "--help")
    assert (code, err) == (0, "")
    assert f"Example: fedhe-admin {' '.join(path)}" in re.sub(r"\s+", " ", out)
    assert ("Needs role lead" in out) == (path[-1] in NEEDS_LEAD)


def test_listings_print_json():
    listing = {"status", "list", "show", "watch", "logs", "submit", "check", "download", "open", "drain"}
    have = {path[-1] for path, command in COMMANDS if any("--json" in option.opts for option in command.params)}
    assert have == listing


def test_the_version(fedhe_admin):
    assert fedhe_admin("--version") == (0, f"fedhe-admin {__version__}\n", "")


def test_the_help_of_the_whole_lists_the_exit_codes(fedhe_admin):
    code, out, _ = fedhe_admin("--help")
    assert code == 0
    assert "Exit codes" in out


def test_the_command_starts_without_loading_torch():
    code = "import sys, fedhe.cli.admin; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"


def test_install_unpacks_a_kit_for_use(fedhe_admin, provisioned, tmp_path, script):
    secret = tmp_path / "secret"
    secret.write_text(provisioned.passphrases["watcher"])
    home = tmp_path / "home"
    kit = provisioned.out / "kits" / "watcher.kit"
    code, out, _ = fedhe_admin("install", kit, "--passphrase-file", secret, name=None, home=home)
    assert code == 0
    assert "watcher" in out
    assert "admin-observer" in out
    assert fedhe_admin("status", name=None, home=home)[0] == 0


@pytest.mark.parametrize(("kit", "said"), [("hospitalA", "fedhe-client"), ("server", "fedhe-server")])
def test_install_refuses_the_kit_of_another_role(fedhe_admin, provisioned, tmp_path, kit, said):
    secret = tmp_path / "secret"
    secret.write_text(provisioned.passphrases[kit])
    file = provisioned.out / "kits" / f"{kit}.kit"
    code, _, err = fedhe_admin("install", file, "--passphrase-file", secret, name=None, home=tmp_path / "home")
    assert code == 3
    assert err.count("\n") == 1
    assert said in err


def test_install_refuses_a_wrong_passphrase(fedhe_admin, provisioned, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("not it")
    kit = provisioned.out / "kits" / "lead.kit"
    code, _, err = fedhe_admin("install", kit, "--passphrase-file", secret, name=None, home=tmp_path / "home")
    assert code == 3
    assert err.count("\n") == 1
    assert "passphrase" in err


def test_status_for_people(fedhe_admin, script, provisioned):
    code, out, _ = fedhe_admin("status")
    assert code == 0
    for words in [
        "trial",
        "2 of 3",
        "1 h 2 min",
        "1.23 MB used, 5.00 GB free",
        "120 MB",
        f"localhost:{provisioned.port}",
    ]:
        assert words in out


def test_status_for_programs(as_json, script):
    status = as_json("status")
    assert status["peak_rss_bytes"] == 120_000_000
    assert status["key_id"] == bytes(range(16)).hex()
    assert status["sites_online"] == 2


def test_sites_for_people(fedhe_admin, script):
    _, out, _ = fedhe_admin("sites", "list")
    rows = {line.split()[0]: line for line in out.splitlines() if line.startswith("hospital")}
    assert "online" in rows["hospitalA"]
    assert "offline" in rows["hospitalC"]
    assert "never" in rows["hospitalC"]
    assert "revoked" in rows["hospitalX"]


def test_sites_for_programs(as_json, script):
    sites = {site["name"]: site for site in as_json("sites", "list")}
    assert sites["hospitalA"]["online"] is True
    assert sites["hospitalC"]["last_seen"] is None
    assert sites["hospitalX"]["revoked"] is True


def test_a_site_is_disabled_and_enabled_again(fedhe_admin, as_json, script):
    assert fedhe_admin("sites", "disable", "hospitalB") == (0, "site hospitalB is disabled\n", "")
    assert script.enabled["hospitalB"] is False
    assert "disabled" in fedhe_admin("sites", "list")[1]
    assert fedhe_admin("sites", "enable", "hospitalB") == (0, "site hospitalB is enabled\n", "")
    assert script.enabled["hospitalB"] is True


def test_a_site_that_does_not_exist_gives_the_nearest(fedhe_admin, script):
    code, _, err = fedhe_admin("sites", "disable", "hospitlaB")
    assert code == 6
    assert err.count("\n") == 1
    assert "did you mean 'hospitalB'?" in err


def test_shutdown_asks_first_and_needs_a_terminal_to_ask_at(fedhe_admin, script):
    code, _, err = fedhe_admin("shutdown")
    assert code == 2
    assert err.count("\n") == 1
    assert "--yes" in err
    assert script.calls == []
    assert fedhe_admin("shutdown", "--restart", "--yes")[0] == 0
    assert script.calls == [("Shutdown", "lead")]


@pytest.fixture
def revised(provisioned, tmp_path, monkeypatch, capsys):
    """Removes hospitalC with the real provisioning, in a copy of the coordinator's folder; returns the new roster."""
    out = tmp_path / "out"
    shutil.copytree(provisioned.out, out)
    project = tmp_path / "project.yml"
    text = (provisioned.out.parent / "project.yml").read_text()
    project.write_text(text.replace("[hospitalA, hospitalB, hospitalC]", "[hospitalA, hospitalB]"))
    monkeypatch.setattr(sys, "argv", ["fedhe-provision", str(project), "--out", str(out), "--yes"])
    with pytest.raises(SystemExit) as caught:
        provision.main()
    assert caught.value.code == 0
    capsys.readouterr()
    return out / "roster.signed"


def test_a_new_roster_is_handed_over(fedhe_admin, script, revised):
    code, out, err = fedhe_admin("roster", "update", revised)
    assert (code, err) == (0, "")
    assert "roster 2" in out
    assert "revoked hospitalC" in out
    assert script.roster.sites == ("hospitalA", "hospitalB")


def test_a_roster_that_the_authority_did_not_sign_is_not_even_sent(fedhe_admin, script, provisioned, tmp_path):
    file = tmp_path / "roster.signed"
    signed = (provisioned.out / "roster.signed").read_bytes()
    file.write_bytes(signed.replace(b"hospitalA", b"hospitalZ"))
    code, _, err = fedhe_admin("roster", "update", file)
    assert code == 3
    assert err.count("\n") == 1
    assert script.calls == []


@pytest.mark.parametrize("what", ["missing", "huge", "folder"])
def test_a_roster_file_that_is_none_is_one_line(fedhe_admin, tmp_path, what):
    file = tmp_path / "roster.signed"
    if what == "huge":
        with file.open("wb") as sparse:
            sparse.truncate(50_000_000)
    elif what == "folder":
        file.mkdir()
    code, _, err = fedhe_admin("roster", "update", file)
    assert code == 2
    assert err.count("\n") == 1
    assert "roster.signed" in err


def test_text_of_the_server_cannot_steer_the_terminal(fedhe_admin, script, trained):
    script.jobs[trained.job_id].message = "\x1b[2J\x1b]0;owned\x07[/red]"
    for command in [("jobs", "list"), ("jobs", "show", trained.job_id)]:
        code, out, _ = fedhe_admin(*command)
        assert code == 0
        assert "\x1b" not in out
        assert "\x07" not in out
