"""Starting, or saying in one line why not."""

import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from fedhe.server.lock_file import Holder, LockFile, running
from fedhe.server.start import _default_address
from fedhe.trust.installation import load_installation

NEVER = (
    "torch",
    "monai",
    "fedhe.training",
    "fedhe.client",
    "fedhe.he.keys",
    "fedhe.he.seal_engine",
    "fedhe.trust.sealed",
)


def refuses(server, code, text, *options):
    """Starting ends with this exit code and one line that has this text."""
    done = server.command("start", *(options or ("--listen", "127.0.0.1:0")), check=False)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    lines = [line for line in done.stderr.splitlines() if " [info " not in line]
    assert len(lines) == 1
    assert text in lines[0], lines


def test_nothing_that_trains_or_decrypts_is_imported_in_a_fresh_process():
    code = (
        "import sys, fedhe.cli.server, fedhe.server.start\n"
        f"print([name for name in {(*NEVER, 'tenseal')!r} if name in sys.modules])\n"
        "import fedhe.he.sums, fedhe.he.seal_expander\n"
        f"print([name for name in {NEVER!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n[]\n"


def test_the_running_server_has_no_library_that_decrypts_in_memory(shared_world):
    world = shared_world
    job = world.submit(rounds=1)
    world.run(job)
    maps = Path(f"/proc/{world.server.process.pid}/maps").read_text()
    assert "grpc" in maps
    assert not any(name in maps for name in ("torch", "sealapi", "tenseal"))


def test_no_key_reaches_the_disk_of_a_server_that_ran_a_job(shared_world):
    world = shared_world
    job = world.submit(rounds=1)
    world.run(job)
    kit = world.provisioned.home / "sites" / "hospitalA" / "kit"
    he_key = (kit / "he.key").read_bytes()
    secrets = [he_key[len(he_key) // 2 :][:64], (kit / "group.key").read_bytes()[-32:]]
    for path in world.server.folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert not any(secret in data for secret in secrets), path


def test_a_server_without_a_kit(idle_server, tmp_path):
    idle_server.home = tmp_path / "empty"
    refuses(idle_server, 6, "no kit is installed here; fedhe-server install KIT")


@pytest.mark.parametrize("place", ["kit/he.key", "kit/spare.bin", "copy/of/group.key"])
def test_a_folder_in_which_a_key_that_decrypts_is_found(idle_server, place):
    name = "group.key" if place.endswith("group.key") else "he.key"
    key = (idle_server.home / "sites" / "hospitalA" / "kit" / name).read_bytes()
    path = idle_server.folder / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(key)
    path.chmod(0o600)
    refuses(idle_server, 3, str(path))


def test_a_key_file_that_others_could_read(idle_server):
    (idle_server.folder / "kit" / "key.pem").chmod(0o644)
    refuses(idle_server, 3, "expected mode 0600 or stricter, got 0644")


def test_a_certificate_that_has_expired(idle_server, bare_certificate):
    issued = bare_certificate("server", "server", now=time.time() - 400 * 86400)
    (idle_server.folder / "kit" / "cert.pem").write_bytes(issued.certificate_pem)
    (idle_server.folder / "kit" / "key.pem").write_bytes(issued.key_pem)
    refuses(idle_server, 3, "expired on")


def test_a_certificate_of_another_project(idle_server, foreign):
    for name in ("cert.pem", "key.pem"):
        (idle_server.folder / "kit" / name).write_bytes((foreign.home / "server" / "kit" / name).read_bytes())
    refuses(idle_server, 3, "issued by a foreign authority")


def test_a_port_that_is_in_use(idle_server):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        refuses(idle_server, 7, f"cannot listen on {address}: Address already in use", "--listen", address)


def test_an_address_of_another_computer(idle_server):
    hint = "name an address of this computer and a port that you may use with --listen ADDR:PORT"
    refuses(
        idle_server,
        7,
        f"cannot listen on 192.0.2.1:0: Cannot assign requested address; {hint}",
        "--listen",
        "192.0.2.1:0",
    )


def test_a_server_that_sites_reach_by_ipv6_listens_there(provisioned):
    installation = load_installation(provisioned.home / "server", role_prefix="server", now=time.time())
    for host, listens in (
        ("2001:db8::1", "[::]:8443"),
        ("192.0.2.1", "0.0.0.0:8443"),
        ("fl.example.org", "0.0.0.0:8443"),
    ):
        assert str(_default_address(replace(installation, server_host=host))) == listens


@pytest.mark.parametrize("address", ["8443", "localhost:", ":8443", "host:99999", "host:port"])
def test_an_address_that_is_none(idle_server, address):
    refuses(idle_server, 2, "expected ADDR:PORT", "--listen", address)


def test_a_second_server_in_the_same_folder(shared_world):
    server = shared_world.server
    said = (
        f"a server runs already in {server.folder} (process {server.process.pid}, listening on 127.0.0.1:{server.port})"
    )
    refuses(server, 6, said)


def test_an_older_roster_is_not_believed_while_the_server_runs_nor_when_it_starts(server, provisioned, make_project):
    path = server.folder / "kit" / "roster.signed"
    old = path.read_bytes()
    (server.home / "new.signed").write_bytes(provisioned.change(make_project(sites=("hospitalA", "hospitalB"))))
    server.command("update-roster", str(server.home / "new.signed"))
    while "roster version 2 is in force" not in server.stderr():
        time.sleep(0.05)
    path.write_bytes(old)
    while "the new roster file is not believed" not in server.stderr():
        time.sleep(0.05)
    assert server.end() == 0
    refuses(server, 3, "expected version 2 or newer, got 1")


def test_status_and_stop_of_a_server_on_this_machine(world):
    server = world.server
    job = world.submit(rounds=3)
    status = json.loads(server.command("status", "--json").stdout)
    assert (status["running"], status["pid"]) == (True, server.process.pid)
    assert status["address"] == f"127.0.0.1:{server.port}"
    assert "runs as process" in server.command("status").stdout
    assert server.command("health").stdout == "the server is healthy\n"
    assert server.command("stop").stdout == "the server has stopped\n"
    assert server.process.wait(10) == 0
    assert "is stopped" in server.command("status").stdout
    assert server.command("stop", check=False).returncode == 6
    gone = server.command("health", check=False)
    assert (gone.returncode, gone.stderr.count("\n")) == (5, 1)
    status = json.loads(server.command("status", "--json").stdout)
    assert not status["running"]
    assert [(one["job_id"], one["phase"], one["rounds"]) for one in status["jobs"]] == [(job, "seeding", 3)]
    with sqlite3.connect(server.folder / "server.db") as raw:
        raw.execute("update alembic_version set version_num = 'v9999'")
    raw.close()
    refuses(server, 6, "has schema v9999, this fedhe knows schemas up to")
    assert "v9999" in server.command("status", check=False).stderr


def test_a_folder_that_takes_no_socket_costs_the_health_command_and_not_the_server(idle_server):
    (idle_server.folder / "health.sock" / "in the way").mkdir(parents=True)
    idle_server.start()
    assert "takes no socket, so fedhe-server health will not work" in idle_server.stderr()
    assert idle_server.command("health", check=False).returncode == 5
    assert idle_server.end() == 0
    assert "Traceback" not in idle_server.stderr()


def test_logs_as_json_lines(idle_server):
    idle_server.start("--json-logs")
    idle_server.end()
    lines = [json.loads(line) for line in idle_server.stderr().splitlines()]
    assert lines[-1]["event"] == "stopped"
    assert {line["level"] for line in lines} == {"info"}


def test_the_servers_files_are_private(shared_world):
    shared_world.submit(rounds=1, start=False)
    for path in shared_world.server.folder.rglob("*"):
        if not path.is_socket():
            assert path.stat().st_mode & 0o077 == 0, path


def test_a_lock_is_given_back_when_its_holder_ends(tmp_path):
    holder = Holder(os.getpid(), "", 0.0, "x")
    lock = LockFile.acquire(tmp_path / "lock", holder)
    lock.release()
    LockFile.acquire(tmp_path / "lock", holder).release()
    assert running(tmp_path / "lock") is None


def test_the_install_command_puts_a_kit_where_start_finds_it(tmp_path, make_project, fedhe_server, monkeypatch):
    from fedhe.provisioning.carry_out import carry_out
    from fedhe.provisioning.reconcile import Wishes, reconcile

    project = make_project()
    kits = carry_out(project, None, reconcile(project, None, Wishes(), time.time()), time.time()).kits
    for kit in kits:
        (tmp_path / f"{kit.name}.kit").write_bytes(kit.data)
    passphrases = {kit.name: kit.passphrase for kit in kits}
    home = ("--home", str(tmp_path / "home"))
    monkeypatch.setenv("FEDHE_PASSPHRASE", "wrong")
    wrong = fedhe_server("install", str(tmp_path / "server.kit"), *home)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (3, 1)
    monkeypatch.setenv("FEDHE_PASSPHRASE", passphrases["server"])
    done = fedhe_server("install", str(tmp_path / "server.kit"), *home)
    assert "server of project brain is installed" in done.stdout
    other = fedhe_server("install", str(tmp_path / "hospitalA.kit"), *home)
    assert (other.returncode, other.stderr.count("\n")) == (3, 1)
    assert fedhe_server("status", *home).returncode == 0
