"""An installed kit is read only if nobody else could have, and if all its files belong together."""

import os

import pytest

from fedhe.errors import NotFoundError, TrustError
from fedhe.trust.certificates import identity_of
from fedhe.trust.installation import (
    GROUP_KEY_MAGIC,
    HE_KEY_MAGIC,
    assert_no_key_material,
    load_installation,
    store_roster,
)
from fedhe.trust.sealed import GroupKey
from fedhe.trust.signatures import sign, verify
from fedhe.trust.site_keys import read_secret_key, read_site_keys


def load(folder, now, role="site"):
    return load_installation(folder, role_prefix=role, now=now)


def test_a_sites_kit_is_read(peer, tmp_path, now, key_id):
    site = load(peer.lay_out(tmp_path / "hospitalA"), now)
    assert (site.project, site.name, site.role, site.address) == ("brain-mri", "hospitalA", "site", "localhost:8443")
    assert site.holds_key
    assert site.key_id == key_id
    assert site.params.security_bits >= 192
    assert site.roster.sites == ("hospitalA",)
    assert site.signed_roster == (site.kit / "roster.signed").read_bytes()
    verify(b"x", b"y", sign(b"x", b"y", site.signing_key), site.certificate_der)
    assert "PRIVATE KEY" not in repr(site)
    he_key, group_key = read_site_keys(site)
    assert he_key.startswith(b"FEDHE")
    assert group_key == GroupKey(bytes(32))


@pytest.mark.parametrize(
    ("role", "prefix"), [("server", "server"), ("admin-lead", "admin"), ("admin-observer", "admin")]
)
def test_other_kits_are_read_and_hold_no_keys(peer, tmp_path, now, role, prefix):
    installed = load(peer.lay_out(tmp_path / "x", role, "someone"), now, prefix)
    assert not installed.holds_key
    with pytest.raises(TrustError, match="holds no keys"):
        read_site_keys(installed)


def test_a_lead_may_hold_the_keys(peer, tmp_path, now):
    assert load(peer.lay_out(tmp_path / "x", "admin-lead", "lead", secrets=True), now, "admin").holds_key


@pytest.mark.parametrize("role", ["server", "admin-observer"])
def test_who_must_not_hold_keys_is_refused_with_them(peer, tmp_path, now, role):
    folder = peer.lay_out(tmp_path / "x", role, "someone", secrets=True)
    with pytest.raises(TrustError, match="must never have one"):
        load(folder, now, role.split("-")[0])


def test_nothing_installed_says_how_to_install(tmp_path, now):
    with pytest.raises(NotFoundError, match="no kit is installed") as caught:
        load(tmp_path / "hospitalA", now)
    assert caught.value.hint == "fedhe-client install KIT"


@pytest.mark.parametrize("file", ["key.pem", "he.key", "group.key", "cert.pem", "kit.json", "roster.signed"])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o622, 0o700])
def test_a_file_that_is_open_to_others_is_refused(peer, tmp_path, now, file, mode):
    folder = peer.lay_out(tmp_path / "hospitalA")
    (folder / "kit" / file).chmod(mode)
    with pytest.raises(TrustError, match=rf"{file}: expected mode 0600 or stricter, got {mode:04o}"):
        load(folder, now)


def test_a_folder_that_is_open_to_others_is_refused(peer, tmp_path, now):
    folder = peer.lay_out(tmp_path / "hospitalA")
    for opened in (folder / "kit", folder):
        opened.chmod(0o750)
        with pytest.raises(TrustError, match="expected mode 0700 or stricter, got 0750"):
            load(folder, now)
        opened.chmod(0o700)
    load(folder, now)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_another_user_is_refused(peer, tmp_path, now):
    folder = peer.lay_out(tmp_path / "hospitalA")
    os.chown(folder / "kit" / "key.pem", 12345, -1)
    with pytest.raises(TrustError, match="expected to be owned by user id 0, got 12345"):
        load(folder, now)


def test_an_expired_certificate_is_refused(peer, tmp_path, now):
    folder = peer.lay_out(tmp_path / "hospitalA", issued=peer.issue(days=5))
    with pytest.raises(TrustError, match="expired on 2027-01-20"):
        load(folder, now + 6 * 86400)


def test_a_kit_for_another_program_is_refused_with_the_right_one(peer, tmp_path, now):
    folder = peer.lay_out(tmp_path / "hospitalA")
    with pytest.raises(TrustError, match="expected the kit of a participant with role server") as caught:
        load(folder, now, "server")
    assert "fedhe-client" in caught.value.hint


@pytest.mark.parametrize("file", ["key.pem", "he.key", "group.key", "ca.pem", "kit.json", "roster.signed"])
def test_a_missing_file_is_named(peer, tmp_path, now, file):
    folder = peer.lay_out(tmp_path / "hospitalA", files={file: None})
    with pytest.raises(TrustError, match=file) as caught:
        load(folder, now)
    assert "install the kit again" in caught.value.hint


def test_files_of_different_kits_are_refused(peer, foreign_peer, tmp_path, now):
    other = peer.issue("site", "hospitalB")
    for number, files in enumerate(
        (
            {"key.pem": other.key_pem},
            {"cert.pem": other.certificate_pem, "key.pem": other.key_pem},
            {"ca.pem": foreign_peer.ca},
            {"roster.signed": foreign_peer.sign(foreign_peer.roster())},
            {"roster.signed": peer.sign(peer.roster())},
            {"kit.json": b"{}"},
            {"kit.json": b"\xff"},
        )
    ):
        with pytest.raises(TrustError):
            load(peer.lay_out(tmp_path / str(number), files=files), now)


def test_a_site_that_its_own_roster_revokes_does_not_start(peer, tmp_path, now):
    issued = peer.issue()
    roster = peer.sign(peer.roster(revoked=[("hospitalA", issued)]))
    folder = peer.lay_out(tmp_path / "hospitalA", issued=issued, files={"roster.signed": roster})
    with pytest.raises(TrustError, match="was revoked on"):
        load(folder, now)


def test_a_newer_roster_is_stored_and_an_older_one_is_not(peer, tmp_path, now):
    folder = peer.lay_out(tmp_path / "hospitalA", issued=(issued := peer.issue()))
    site = load(folder, now)
    member = ("hospitalA", "site", issued)
    newer = peer.sign(peer.roster(member, ("hospitalB", "site", peer.issue(name="hospitalB")), version=2))
    older = site.signed_roster
    updated = store_roster(site, newer)
    assert updated.roster.version == 2
    assert load(folder, now).roster == updated.roster
    assert load(folder, now).roster.sites == ("hospitalA", "hospitalB")
    assert (folder / "kit" / "roster.signed").stat().st_mode & 0o777 == 0o600
    assert store_roster(updated, newer).roster == updated.roster
    with pytest.raises(TrustError, match="expected version 2 or newer, got 1"):
        store_roster(updated, older)
    with pytest.raises(TrustError, match="another content"):
        store_roster(updated, peer.sign(peer.roster(member, version=2)))


def test_after_a_rekey_an_old_kit_with_keys_asks_for_the_new_one(peer, tmp_path, now):
    issued = peer.issue()
    site = load(peer.lay_out(tmp_path / "hospitalA", issued=issued), now)
    store_roster(site, peer.sign(peer.roster(("hospitalA", "site", issued), version=2, key_id=bytes(16))))
    with pytest.raises(TrustError, match="expected the project's CKKS key") as caught:
        load(site.folder, now)
    assert "--replace" in caught.value.hint


def test_after_a_rekey_a_server_goes_by_the_roster(peer, tmp_path, now):
    issued = peer.issue("server", "server", host="localhost")
    server = load(peer.lay_out(tmp_path / "s", "server", "server", issued=issued), now, "server")
    updated = store_roster(server, peer.sign(peer.roster(("server", "server", issued), version=2, key_id=bytes(16))))
    assert updated.key_id == bytes(16) == load(server.folder, now, "server").key_id


def test_a_key_file_that_is_not_the_projects_key_is_refused(peer, tmp_path, now):
    from fedhe.he.keys import SecretKey
    from fedhe.he.params import DEFAULT_PARAMS

    key = SecretKey.generate(DEFAULT_PARAMS).to_bytes()
    site = load(peer.lay_out(tmp_path / "hospitalA", files={"he.key": key}), now)
    with pytest.raises(TrustError, match="expected the key with id 000102"):
        read_secret_key(site)


def test_the_server_knows_how_key_files_begin():
    from fedhe.he.keys import SecretKey
    from fedhe.he.params import DEFAULT_PARAMS

    assert SecretKey.generate(DEFAULT_PARAMS).to_bytes().startswith(HE_KEY_MAGIC)
    assert GroupKey.generate().to_bytes().startswith(GROUP_KEY_MAGIC)


def test_a_clean_server_folder_has_no_key_material(peer, tmp_path):
    folder = peer.lay_out(tmp_path / "server", "server", "server")
    (folder / "blobs").mkdir()
    (folder / "blobs" / "chunk").write_bytes(b"x" * 100 + GROUP_KEY_MAGIC)
    os.mkfifo(folder / "pipe")
    assert_no_key_material(folder)


@pytest.mark.parametrize(
    ("place", "data", "what"),
    [
        ("kit/he.key", b"", "a key that decrypts"),
        ("kit/notes.txt", b"keep: " + GroupKey(bytes(32)).to_bytes(), "a group key"),
        ("kit/cert.bak", HE_KEY_MAGIC + bytes(50), "a CKKS secret key"),
        ("old/backup/anything", HE_KEY_MAGIC + bytes(50), "a CKKS secret key"),
        ("blobs/job/chunk-3", GroupKey(bytes(32)).to_bytes(), "a group key"),
        ("group.key", b"whatever", "a key that decrypts"),
        ("private/state.json", b"{}", "a key that decrypts"),
    ],
)
def test_key_material_anywhere_in_a_server_folder_is_found(peer, tmp_path, place, data, what):
    folder = peer.lay_out(tmp_path / "server", "server", "server")
    path = folder / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    with pytest.raises(TrustError, match=f"{place}: expected no key here, got {what}") as caught:
        assert_no_key_material(folder)
    assert "--rekey" in caught.value.hint


def test_what_reads_a_servers_kit_imports_nothing_that_decrypts():
    import subprocess
    import sys

    code = (
        "import sys, fedhe.trust.installation, fedhe.trust.roster, fedhe.provisioning.unpack, fedhe.cli.install\n"
        "bad = {'fedhe.trust.sealed', 'fedhe.trust.site_keys', 'fedhe.he.keys', 'tenseal', 'torch'} & {*sys.modules}\n"
        "sys.exit(', '.join(bad) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_identity_of_an_installation_is_that_of_its_certificate(peer, tmp_path, now):
    site = load(peer.lay_out(tmp_path / "hospitalA"), now)
    assert site.identity == identity_of(site.certificate_pem)
