"""Installing a kit: everything is checked first, nothing that is there is touched until all is well."""

import json
import stat
import sys
import time

import pytest

from fedhe.cli.install import install_kit
from fedhe.cli.passphrase import read_passphrase
from fedhe.errors import ConfigError, NotFoundError, StateError, TrustError
from fedhe.provisioning import unpack
from fedhe.provisioning.kit import WrongPassphraseError
from fedhe.provisioning.unpack import unpack_kit
from fedhe.trust.installation import load_installation
from fedhe.trust.site_keys import read_secret_key, read_site_keys


@pytest.fixture
def provisioned(coordinator):
    coordinator.run()
    return coordinator


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


def install(coordinator, name, home, role="site", **options):
    return unpack_kit(coordinator.kit(name), coordinator.passphrase(name), home, expected_role=role, **options)


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("name", "place", "keys"),
    [
        ("server", "server", False),
        ("hospitalA", "sites/hospitalA", True),
        ("lead", "admins/lead", True),
        ("auditor", "admins/auditor", False),
    ],
)
def test_a_kit_goes_to_its_place_and_is_private(provisioned, home, name, place, keys):
    role = place.split("/")[0].removesuffix("s")
    installed = install(provisioned, name, home, role)
    assert (installed.name, installed.holds_key, installed.folder) == (name, keys, home / place)
    assert (installed.server_host, installed.server_port) == ("localhost", 9443)
    assert load_installation(home / place, role_prefix=role, now=time.time()) == installed
    for path in home.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
    assert [path.name for path in (home / place).iterdir()] == ["kit"]


def test_the_installed_keys_are_the_projects(provisioned, home):
    site, lead = install(provisioned, "hospitalA", home), install(provisioned, "lead", home, "admin")
    key = read_secret_key(site)
    assert key.key_id == site.key_id == site.roster.key_id == read_secret_key(lead).key_id
    assert read_site_keys(site)[1] == read_site_keys(lead)[1]


def test_a_wrong_passphrase_installs_nothing(provisioned, home):
    with pytest.raises(WrongPassphraseError, match="wrong passphrase"):
        unpack_kit(provisioned.kit("hospitalA"), "guess", home, expected_role="site")
    with pytest.raises(WrongPassphraseError):
        unpack_kit(provisioned.kit("hospitalA"), provisioned.passphrase("hospitalB"), home, expected_role="site")
    assert not home.exists()


def test_a_truncated_kit_installs_nothing(provisioned, home):
    path = provisioned.kit("hospitalA")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(TrustError, match="cut or altered"):
        install(provisioned, "hospitalA", home)
    assert not home.exists()


@pytest.mark.parametrize(
    ("name", "role", "program"),
    [("server", "site", "fedhe-server"), ("hospitalA", "server", "fedhe-client"), ("lead", "site", "fedhe-admin")],
)
def test_a_kit_for_another_program_names_the_right_one(provisioned, home, name, role, program):
    with pytest.raises(TrustError, match=f"expected a kit of role {role}") as caught:
        install(provisioned, name, home, role)
    assert caught.value.hint.startswith(program)


def test_a_kit_that_is_installed_already_is_replaced_only_when_asked_to(provisioned, home):
    first = install(provisioned, "hospitalA", home)
    (first.folder / "policy.yml").write_text("job_code: deny\n")
    before = snapshot(home)
    with pytest.raises(StateError, match="installed here already") as caught:
        install(provisioned, "hospitalA", home)
    assert "--replace" in caught.value.hint
    assert snapshot(home) == before
    provisioned.run("--renew", "hospitalA")
    second = install(provisioned, "hospitalA", home, replace=True)
    assert second.identity.serial != first.identity.serial
    assert sorted(path.name for path in second.folder.iterdir()) == ["kit", "policy.yml"]


def test_a_kit_of_another_project_never_replaces_one(provisioned, make_coordinator, home):
    install(provisioned, "hospitalA", home)
    other = make_coordinator("elsewhere")
    other.content["project"]["name"] = "liver-ct"
    other.run()
    before = snapshot(home)
    for replace in (False, True):
        with pytest.raises(StateError, match="the kit of another project is installed here") as caught:
            install(other, "hospitalA", home, replace=replace)
        assert "--home" in caught.value.hint
    assert snapshot(home) == before


def test_an_expired_kit_is_refused_and_leaves_the_old_one(provisioned, home, monkeypatch):
    install(provisioned, "hospitalA", home)
    before = snapshot(home)
    later = time.time() + 366 * 86400
    monkeypatch.setattr(unpack.time, "time", lambda: later)
    with pytest.raises(TrustError, match="expired on"):
        install(provisioned, "hospitalA", home, replace=True)
    assert snapshot(home) == before


def test_a_roster_that_came_since_is_kept_and_an_old_kit_cannot_bring_a_revoked_site_back(provisioned, home):
    old_kit, old_passphrase = provisioned.kit("hospitalA").read_bytes(), provisioned.passphrase("hospitalA")
    install(provisioned, "hospitalA", home)
    provisioned.run("--replace", "hospitalA")
    installed = install(provisioned, "hospitalA", home, replace=True)
    assert installed.roster.version == 2
    stolen = provisioned.folder / "stolen.kit"
    stolen.write_bytes(old_kit)
    with pytest.raises(TrustError, match="was revoked on"):
        unpack_kit(stolen, old_passphrase, home, expected_role="site", replace=True)
    assert load_installation(installed.folder, role_prefix="site", now=time.time()).roster.version == 2


def test_a_server_folder_with_a_key_in_it_takes_no_kit(provisioned, home):
    (home / "server").mkdir(parents=True, mode=0o700)
    (home / "server" / "he.key").write_bytes(b"")
    with pytest.raises(TrustError, match="expected no key here"):
        install(provisioned, "server", home, "server")
    assert not (home / "server" / "kit").exists()


def test_what_a_cut_installation_left_does_no_harm(provisioned, home):
    folder = home / "sites" / "hospitalA"
    (folder / ".kit-0123456789abcdef").mkdir(parents=True)
    folder.chmod(0o700)
    (folder / ".kit-0123456789abcdef" / "key.pem").write_bytes(b"half")
    install(provisioned, "hospitalA", home)
    assert [path.name for path in folder.iterdir()] == ["kit"]


# ---- where the passphrase comes from ----


def test_the_passphrase_comes_from_a_file_the_environment_or_the_keyboard(provisioned, tmp_path, monkeypatch):
    passphrase = provisioned.passphrase("hospitalA")
    kit = provisioned.kit("hospitalA")
    monkeypatch.delenv("FEDHE_PASSPHRASE", raising=False)
    alone = tmp_path / "passphrase.txt"
    alone.write_text(passphrase + "\n")
    assert install_kit(kit, "site", tmp_path / "1", alone).name == "hospitalA"
    assert install_kit(kit, "site", tmp_path / "2", provisioned.secrets).name == "hospitalA"
    monkeypatch.setenv("FEDHE_PASSPHRASE", passphrase)
    assert install_kit(kit, "site", tmp_path / "3").name == "hospitalA"
    monkeypatch.delenv("FEDHE_PASSPHRASE")
    typed = iter(["wrong", passphrase])
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.prompt", lambda *_, **__: next(typed))
    assert install_kit(kit, "site", tmp_path / "4").name == "hospitalA"


def test_three_wrong_passphrases_end_it(provisioned, home, monkeypatch):
    asked = []
    monkeypatch.delenv("FEDHE_PASSPHRASE", raising=False)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.prompt", lambda text, **__: asked.append(text) or "wrong")
    with pytest.raises(WrongPassphraseError):
        install_kit(provisioned.kit("hospitalA"), "site", home)
    assert asked == ["Passphrase of hospitalA.kit"] * 3


def test_a_wrong_kit_is_refused_before_a_passphrase_is_asked_for(provisioned, home):
    with pytest.raises(TrustError, match="expected a kit of role admin"):
        install_kit(provisioned.kit("hospitalA"), "admin", home)
    with pytest.raises(NotFoundError, match="no such file"):
        install_kit(provisioned.kit("nobody"), "site", home)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected one line with the passphrase, got 0 lines"),
        (b"a\nb\n", "expected one line with the passphrase, got 2 lines"),
        (b"\xff\xfe", "expected a passphrase as UTF-8 text"),
        (b"{", ":1: "),
        (json.dumps({"hospitalB": "x"}).encode(), "expected a passphrase for hospitalA, got those for hospitalB"),
        (bytes(2 * 1024 * 1024), "expected at most"),
    ],
)
def test_a_passphrase_file_without_a_passphrase_is_one_clear_line(tmp_path, content, message):
    path = tmp_path / "passphrase"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_passphrase(file=path, name="hospitalA")


def test_no_passphrase_anywhere_says_where_it_may_come_from(monkeypatch, tmp_path):
    monkeypatch.delenv("FEDHE_PASSPHRASE", raising=False)
    with pytest.raises(ConfigError, match="no terminal to ask at") as caught:
        read_passphrase()
    assert "--passphrase-file" in caught.value.hint
    monkeypatch.setenv("FEDHE_PASSPHRASE", " ")
    with pytest.raises(ConfigError, match="FEDHE_PASSPHRASE: expected a passphrase, got nothing"):
        read_passphrase()
    with pytest.raises(NotFoundError):
        read_passphrase(file=tmp_path / "nothing")
