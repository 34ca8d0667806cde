"""`fedhe-provision` as a coordinator meets it: first run, changes, wrong use, and runs that are cut short."""

import fcntl
import io
import json
import stat

import pytest

from fedhe.cli import provision
from fedhe.errors import ResourceError
from fedhe.provisioning import carry_out as carrying
from fedhe.provisioning.kit import open_kit, read_kit
from fedhe.provisioning.state import load_state
from fedhe.trust.certificates import verify_certificate
from fedhe.trust.roster import read_roster

NAMES = ["auditor", "hospitalA", "hospitalB", "hospitalC", "lead", "server"]


def roster_of(coordinator):
    state = load_state(coordinator.out)
    signed = (coordinator.out / "roster.signed").read_bytes()
    return read_roster(signed, state.ca_pem, project="brain-mri", at_least_version=1)


def test_the_first_run_makes_everything(coordinator):
    result = coordinator.run()
    assert sorted(kit["name"] for kit in result["kits"]) == NAMES
    assert not any("passphrase" in kit for kit in result["kits"])
    assert sorted(json.loads(coordinator.secrets.read_text())) == NAMES
    assert roster_of(coordinator).sites == ("hospitalA", "hospitalB", "hospitalC")
    assert (result["roster_version"], result["warnings"]) == (1, [])
    files = [path for path in coordinator.out.rglob("*") if path.is_file()] + [coordinator.secrets]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    folders = [coordinator.out, *(path for path in coordinator.out.rglob("*") if path.is_dir())]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}


def test_the_servers_kit_holds_parameters_and_no_key_that_decrypts(coordinator):
    coordinator.run()
    opened = {n: open_kit(read_kit(coordinator.kit(n)), coordinator.passphrase(n)) for n in NAMES}
    state = load_state(coordinator.out)
    for name in ("server", "auditor"):
        assert sorted(opened[name]) == ["ca.pem", "cert.pem", "key.pem", "kit.json", "roster.signed"]
        everything = b"".join(opened[name].values())
        for secret in (state.he_key, state.group_key, state.he_key[60:100], state.group_key[17:49]):
            assert secret not in everything
    for name in ("hospitalA", "hospitalB", "hospitalC", "lead"):
        assert (opened[name]["he.key"], opened[name]["group.key"]) == (state.he_key, state.group_key)
    assert json.loads(opened["server"]["kit.json"])["he"]["poly_modulus_degree"] == 4096
    assert len({opened[name]["key.pem"] for name in NAMES}) == len(NAMES)
    for name in NAMES:
        now = roster_of(coordinator).issued_at
        assert verify_certificate(opened[name]["cert.pem"], opened[name]["ca.pem"], now).name == name


def test_no_private_key_or_passphrase_of_a_participant_is_kept(coordinator):
    coordinator.run()
    state = (coordinator.out / "private" / "state.json").read_text()
    for name in NAMES:
        files = open_kit(read_kit(coordinator.kit(name)), coordinator.passphrase(name))
        assert coordinator.passphrase(name) not in state
        assert files["key.pem"].splitlines()[1].decode() not in state


def test_a_second_run_changes_nothing(coordinator):
    coordinator.run()
    before = {path: path.read_bytes() for path in coordinator.out.rglob("*") if path.is_file()}
    result = coordinator.run()
    assert (result["plan"], result["kits"]) == ([], [])
    assert {path: path.read_bytes() for path in coordinator.out.rglob("*") if path.is_file()} == before


def test_a_new_site_gets_a_kit_and_all_others_stay_as_they_are(coordinator):
    coordinator.run()
    before, passphrases = coordinator.kits(), json.loads(coordinator.secrets.read_text())
    coordinator.content["sites"].append("hospitalD")
    result = coordinator.run()
    assert [kit["name"] for kit in result["kits"]] == ["hospitalD"]
    after = coordinator.kits()
    assert after.keys() - before.keys() == {"hospitalD.kit"}
    assert {name: after[name] for name in before} == before
    assert json.loads(coordinator.secrets.read_text()).items() > passphrases.items()
    assert roster_of(coordinator).version == 2


def test_a_removed_site_is_revoked_and_its_kit_is_deleted(coordinator):
    coordinator.run()
    serial = next(p.serial for p in roster_of(coordinator).participants if p.name == "hospitalC")
    coordinator.content["sites"].remove("hospitalC")
    result = coordinator.run()
    assert [(step["do"], step["name"]) for step in result["plan"]] == [("revoke", "hospitalC"), ("change", "min_sites")]
    assert "hospitalC" in result["warnings"][0]
    roster = roster_of(coordinator)
    assert [(r.name, r.serial) for r in roster.revoked] == [("hospitalC", serial)]
    assert not coordinator.kit("hospitalC").exists()


def test_kits_that_were_handed_over_and_deleted_are_not_made_again(coordinator):
    coordinator.run()
    coordinator.kit("hospitalA").unlink()
    assert coordinator.run()["plan"] == []
    assert not coordinator.kit("hospitalA").exists()


def test_rekeying_makes_new_keys_and_leaves_the_servers_kit(coordinator):
    first = coordinator.run()
    server = coordinator.kit("server").read_bytes()
    second = coordinator.run("--rekey")
    assert first["key_id"] != second["key_id"] == roster_of(coordinator).key_id.hex()
    assert sorted(kit["name"] for kit in second["kits"]) == ["hospitalA", "hospitalB", "hospitalC", "lead"]
    assert coordinator.kit("server").read_bytes() == server


def test_a_roster_that_nobody_could_read_is_not_signed(coordinator, monkeypatch):
    coordinator.run()
    before = {path: path.read_bytes() for path in coordinator.out.rglob("*") if path.is_file()}
    monkeypatch.setattr(carrying, "MAX_REVOCATIONS", 3)
    arguments = (coordinator.file, "--out", coordinator.out, "--yes", "--rekey")
    one_line(coordinator.raw(*arguments), 6, "2000 certificates, 3 revoked ones and", "got 6, 4 and", "--out DIR")
    assert {path: path.read_bytes() for path in coordinator.out.rglob("*") if path.is_file()} == before


def test_plan_shows_and_does_nothing(coordinator):
    coordinator.write()
    code, out, _ = coordinator.raw(coordinator.file, "--out", coordinator.out, "--plan")
    assert code == 0
    assert "hospitalA" in out
    assert not coordinator.out.exists()
    code, out, _ = coordinator.raw(coordinator.file, "--out", coordinator.out, "--plan", "--json")
    assert [step["do"] for step in json.loads(out)["plan"]] == ["create"] + ["issue"] * 6


def test_passphrases_are_shown_once_where_no_file_is_named(coordinator):
    coordinator.write()
    code, out, _ = coordinator.raw(coordinator.file, "--out", coordinator.out)
    assert code == 0
    for name in NAMES:
        line = next(line for line in out.splitlines() if f" {name}.kit " in line)
        assert open_kit(read_kit(coordinator.kit(name)), line.split()[1])
    code, out, _ = coordinator.raw(coordinator.file, "--out", coordinator.out)
    assert (code, out.count("\n")) == (0, 1)
    assert "nothing to do" in out


def test_json_without_a_file_carries_the_passphrases(coordinator):
    coordinator.write()
    _, out, _ = coordinator.raw(coordinator.file, "--out", coordinator.out, "--json")
    for kit in json.loads(out)["kits"]:
        assert open_kit(read_kit(coordinator.kit(kit["name"])), kit["passphrase"])


def test_the_folder_is_named_after_the_project_unless_said_otherwise(coordinator):
    coordinator.write()
    assert coordinator.raw(coordinator.file, "--passphrases", coordinator.secrets)[0] == 0
    assert (coordinator.folder / "brain-mri" / "kits" / "server.kit").exists()


def one_line(result, code, *words):
    """A failing command says one line, on standard error, and ends with the documented code."""
    assert result[0] == code, result
    lines = [line for line in result[2].splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result[2]
    assert "Traceback" not in result[2]
    for word in words:
        assert word in lines[0], lines[0]


def test_a_change_is_asked_about_and_refused_where_nobody_can_answer(coordinator):
    coordinator.run()
    coordinator.content["sites"].append("hospitalD")
    coordinator.write()
    one_line(coordinator.raw(coordinator.file, "--out", coordinator.out), 2, "no terminal", "--yes")
    assert not coordinator.kit("hospitalD").exists()


@pytest.mark.parametrize(("answer", "code"), [(True, 0), (False, 130)])
def test_the_answer_decides(coordinator, monkeypatch, answer, code):
    coordinator.run()
    coordinator.content["sites"].append("hospitalD")
    coordinator.write()
    keyboard = io.StringIO("y\n" if answer else "n\n")
    keyboard.isatty = lambda: True
    monkeypatch.setattr("sys.stdin", keyboard)
    assert coordinator.raw(coordinator.file, "--out", coordinator.out)[0] == code
    assert coordinator.kit("hospitalD").exists() is answer


def test_a_typo_in_the_project_file_is_one_line_with_file_line_and_nearest_key(coordinator):
    coordinator.write()
    coordinator.file.write_text(coordinator.file.read_text().replace("admins:", "admin:"))
    one_line(coordinator.raw(coordinator.file), 2, "project.yml:", "admin")
    coordinator.write()
    coordinator.file.write_text(coordinator.file.read_text().replace("port:", "prot:"))
    one_line(coordinator.raw(coordinator.file), 2, "unknown key 'server.prot'", "did you mean 'port'?")


def test_wrong_use_is_one_line(coordinator):
    coordinator.write()
    one_line(coordinator.raw(coordinator.folder / "nothing.yml"), 2, "No such file")
    one_line(coordinator.raw("--yes"), 2, "expected a project file")
    below_a_file = coordinator.file / "passphrases"
    arguments = (coordinator.file, "--out", coordinator.out, "--passphrases", below_a_file)
    one_line(coordinator.raw(*arguments), 7, "project.yml")
    assert not (coordinator.out / "kits").exists()
    one_line(
        coordinator.raw(coordinator.file, "--out", coordinator.out, "--renew", "hospitalX"), 6, "hospitalX", "known"
    )
    code, _, err = coordinator.raw("--nonsense")
    assert code == 2
    assert "No such option" in err


def test_the_folder_of_another_project_is_refused(coordinator):
    coordinator.run()
    coordinator.content["project"]["name"] = "liver-ct"
    coordinator.write()
    one_line(
        coordinator.raw(coordinator.file, "--out", coordinator.out, "--yes"), 2, "expected project brain-mri", "--out"
    )


def test_a_state_that_others_can_read_or_that_was_altered_is_refused(coordinator):
    coordinator.run()
    state = coordinator.out / "private" / "state.json"
    state.chmod(0o644)
    one_line(coordinator.raw(coordinator.file, "--out", coordinator.out), 3, "expected mode 0600", "chmod")
    state.chmod(0o600)
    state.write_text(state.read_text()[:-100])
    one_line(coordinator.raw(coordinator.file, "--out", coordinator.out), 3, "state.json", "backup")


def test_without_the_private_folder_no_second_federation_is_made_over_the_first(coordinator):
    coordinator.run()
    private = coordinator.out / "private"
    private.rename(coordinator.folder / "in-the-safe")
    before = {path: path.read_bytes() for path in coordinator.out.rglob("*") if path.is_file()}
    for options in (["--yes"], ["--plan"]):
        one_line(coordinator.raw(coordinator.file, "--out", coordinator.out, *options), 6, "state.json", "backup")
    assert {path: path.read_bytes() for path in coordinator.out.rglob("*") if path.is_file()} == before
    assert not private.exists()
    (coordinator.out / "roster.signed").unlink()
    coordinator.run()


def test_an_old_backup_of_the_private_folder_is_refused(coordinator):
    coordinator.run()
    state = coordinator.out / "private" / "state.json"
    old = state.read_bytes()
    coordinator.content["sites"].append("hospitalD")
    coordinator.run()
    state.write_bytes(old)
    before = {path: path.read_bytes() for path in coordinator.out.rglob("*") if path.is_file()}
    said = ("expected the state of roster version 2, got that of version 1", "newest private/")
    one_line(coordinator.raw(coordinator.file, "--out", coordinator.out, "--yes"), 6, *said)
    assert {path: path.read_bytes() for path in coordinator.out.rglob("*") if path.is_file()} == before


def test_a_passphrase_file_that_is_something_else_is_not_overwritten(coordinator):
    coordinator.write()
    coordinator.secrets.write_text("dear diary")
    coordinator.secrets.chmod(0o600)
    arguments = (coordinator.file, "--out", coordinator.out, "--passphrases", coordinator.secrets)
    one_line(coordinator.raw(*arguments), 2, "expected passphrases that an earlier run wrote")
    assert coordinator.secrets.read_text() == "dear diary"
    assert not coordinator.out.exists()


def test_two_runs_at_once_are_refused(coordinator):
    coordinator.run()
    with (coordinator.out / "private" / "lock").open("rb+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        one_line(coordinator.raw(coordinator.file, "--out", coordinator.out), 6, "another fedhe-provision")


def test_init_writes_an_example_that_provisions(coordinator):
    code, out, _ = coordinator.raw("--init", coordinator.file)
    assert code == 0
    assert "edit it" in out
    assert coordinator.raw(coordinator.file, "--out", coordinator.out, "--plan")[0] == 0
    one_line(coordinator.raw("--init", coordinator.file), 6, "is there already")


def test_help_and_version_are_shown(coordinator):
    code, out, _ = coordinator.raw()
    assert "fedhe-provision project.yml" in out
    assert "Exit codes" in out
    code, out, _ = coordinator.raw("--version")
    assert (code, out.split()[0]) == (0, "fedhe-provision")


class PowerCut(BaseException):
    """Nothing catches it, like a power cut."""


def steps_of(monkeypatch, fail_at):
    """Has the run end before its n-th write to the disk."""
    count = 0

    def counted(call):
        def wrapped(*arguments):
            nonlocal count
            if count == fail_at:
                raise PowerCut
            count += 1
            return call(*arguments)

        return wrapped

    for module, name in (
        (carrying, "write_private"),
        (carrying, "save_state"),
        (carrying, "fsync_folder"),
        (carrying, "make_private_folder"),
        (provision, "write_private"),
    ):
        monkeypatch.setattr(module, name, counted(getattr(module, name)))
    return lambda: count


@pytest.mark.parametrize("fail_at", range(8))
def test_a_run_that_is_cut_anywhere_is_completed_by_the_next(coordinator, monkeypatch, fail_at):
    coordinator.run()
    coordinator.content["sites"] = ["hospitalA", "hospitalB", "hospitalD"]
    coordinator.write()
    before = coordinator.kits()
    with monkeypatch.context() as patch:
        steps_of(patch, fail_at)
        try:
            coordinator.run()
        except PowerCut:
            pass
        else:
            assert fail_at == 7  # the writes of such a run are fewer, all were passed
    coordinator.run()
    roster = roster_of(coordinator)
    assert roster.sites == ("hospitalA", "hospitalB", "hospitalD")
    assert [r.name for r in roster.revoked if r.name != "hospitalD"] == ["hospitalC"]
    files = open_kit(read_kit(coordinator.kit("hospitalD")), coordinator.passphrase("hospitalD"))
    from fedhe.trust.certificates import identity_of

    roster.check(identity_of(files["cert.pem"]))
    for name in ("hospitalA", "hospitalB", "server", "lead", "auditor"):
        assert coordinator.kit(name).read_bytes() == before[f"{name}.kit"]
    assert coordinator.run()["plan"] == []
    assert not [path.name for path in (coordinator.out / "kits").iterdir() if path.name.startswith(".")]


def test_a_full_disk_changes_nothing(coordinator, monkeypatch):
    coordinator.run()
    before = {path: path.read_bytes() for path in coordinator.out.rglob("*") if path.is_file()}
    coordinator.content["sites"].append("hospitalD")
    coordinator.write()

    def full(path, _data):
        raise ResourceError(f"{path}: No space left on device", "free some space and run the command again")

    with monkeypatch.context() as patch:
        patch.setattr(carrying, "write_private", full)
        one_line(coordinator.raw(coordinator.file, "--out", coordinator.out, "--yes"), 7, "No space left")
    assert {path: path.read_bytes() for path in coordinator.out.rglob("*") if path.is_file()} == before
