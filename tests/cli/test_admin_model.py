"""`fedhe-admin model`: what the server stores sealed becomes a file for inference, for who holds the key."""

import stat

import numpy as np
import pytest
from safetensors import safe_open

from fedhe.cli.admin_model_file import write_whole
from fedhe.errors import ConfigError, ResourceError, UnavailableError


def test_the_newest_checkpoint_becomes_safetensors(fedhe_admin, trained, tmp_path):
    out = tmp_path / "model.safetensors"
    code, printed, err = fedhe_admin("model", "download", "tiny", "--out", out)
    assert (code, err) == (0, "")
    with safe_open(out, "np") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
        about = file.metadata()
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        "conv.weight": (300, 1000),
        "norm.running_mean": (7,),
        "scale": (),
    }
    flat = np.concatenate([tensors[spec.name].reshape(-1) for spec in trained.layout.tensors])
    assert flat.tobytes() == trained.vector.tobytes()
    assert about["fedhe.version"] == "2"
    assert about["fedhe.fingerprint"] == trained.fingerprint.hex()
    assert "the same model that hospitalA, hospitalB, hospitalC reported" in printed
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


def test_the_report_for_programs(as_json, trained, tmp_path):
    out = tmp_path / "model.safetensors"
    report = as_json("model", "download", "tiny", "--out", out)
    assert report["version"] == 2
    assert report["values"] == 300_008
    assert report["fingerprint"] == trained.fingerprint.hex()
    assert report["sites_with_this_model"] == ["hospitalA", "hospitalB", "hospitalC"]
    assert report["bytes"] == out.stat().st_size


def test_an_older_version_can_be_chosen(as_json, trained, tmp_path):
    out = tmp_path / "seed.safetensors"
    assert as_json("model", "download", "tiny", "--version", "0", "--out", out)["version"] == 0
    with safe_open(out, "np") as file:
        assert not file.get_tensor("conv.weight").any()


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_a_pytorch_checkpoint_loads_without_pickled_code(fedhe_admin, trained, tmp_path, suffix):
    torch = pytest.importorskip("torch")
    out = tmp_path / f"model{suffix}"
    code, _, err = fedhe_admin("model", "download", "tiny", "--out", out)
    assert (code, err) == (0, "")
    loaded = torch.load(out, weights_only=True)
    state = loaded.get("model", loaded)
    assert state["conv.weight"].shape == (300, 1000)
    assert state["scale"].shape == ()


def test_without_torch_a_pytorch_checkpoint_is_refused_with_a_way_out(fedhe_admin, trained, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "fedhe.training.export", None)
    code, _, err = fedhe_admin("model", "download", "tiny", "--out", tmp_path / "model.pt")
    assert code == 7
    assert err.count("\n") == 1
    assert ".safetensors" in err
    assert list(tmp_path.iterdir()) == []


def test_without_the_group_key_the_checkpoint_stays_sealed(fedhe_admin, script, trained, tmp_path):
    for name in ("deputy", "watcher"):
        code, _, err = fedhe_admin("model", "download", "tiny", "--out", tmp_path / "model.pt", name=name)
        assert code == 3
        assert err.count("\n") == 1
        assert ".sealed" in err
    assert script.calls == []
    assert list(tmp_path.iterdir()) == []


def test_a_sealed_file_travels_to_whoever_holds_the_key(fedhe_admin, as_json, trained, tmp_path):
    """An observer downloads what nobody but a key holder can read; the lead opens it without a server."""
    sealed, opened = tmp_path / "model.sealed", tmp_path / "model.safetensors"
    code, printed, _ = fedhe_admin("model", "download", "tiny", "--out", sealed, name="watcher")
    assert code == 0
    assert "sealed" in printed
    assert b"conv.weight" not in sealed.read_bytes()
    code, _, err = fedhe_admin("model", "open", sealed, "--out", opened, name="watcher")
    assert code == 3
    assert err.count("\n") == 1
    report = as_json("model", "open", sealed, "--out", opened)
    assert report["fingerprint"] == trained.fingerprint.hex()
    assert report["version"] == 2


def test_a_sealed_file_that_was_altered_or_cut_does_not_open(fedhe_admin, trained, tmp_path):
    sealed, opened = tmp_path / "model.sealed", tmp_path / "model.safetensors"
    assert fedhe_admin("model", "download", "tiny", "--out", sealed)[0] == 0
    whole = sealed.read_bytes()
    for data, expected in [
        (whole[:-1], 4),
        (whole + b"x", 4),
        (whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:], 3),
        (whole.replace(b'"trial"', b'"trail"'), 3),
        (b"PK\x03\x04" + whole, 2),
        (b"", 2),
    ]:
        sealed.write_bytes(data)
        code, _, err = fedhe_admin("model", "open", sealed, "--out", opened)
        assert code == expected, err
        assert err.count("\n") == 1
        assert not opened.exists()


def test_a_chunk_that_was_damaged_on_the_way_is_noticed(fedhe_admin, script, trained, tmp_path):
    script.damage = lambda data: data[:-1] + bytes([data[-1] ^ 1])
    for name in ("model.safetensors", "model.sealed"):
        code, _, err = fedhe_admin("model", "download", "tiny", "--out", tmp_path / name)
        assert code == 4
        assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_hands_out_another_jobs_checkpoint_is_noticed(fedhe_admin, script, trained, tmp_path):
    script.checkpoints[trained.job_id, 2] = script.checkpoints[trained.job_id, 0]
    code, _, err = fedhe_admin("model", "download", "tiny", "--out", tmp_path / "model.safetensors")
    assert code == 3
    assert err.count("\n") == 1


def test_a_server_that_mixes_up_its_chunks_is_noticed(fedhe_admin, script, trained, tmp_path):
    script.checkpoints[trained.job_id, 2].reverse()
    script.checkpoints[trained.job_id, 0] = script.checkpoints[trained.job_id, 2][:1]
    for version in ("0", "2"):
        code, _, err = fedhe_admin(
            "model", "download", "tiny", "--version", version, "--out", tmp_path / "model.safetensors"
        )
        assert code in {3, 4}
        assert err.count("\n") == 1
    script.checkpoints[trained.job_id, 2] = []
    code, _, err = fedhe_admin("model", "download", "tiny", "--out", tmp_path / "model.sealed")
    assert code == 4
    assert "expected 1 to" in err
    assert list(tmp_path.iterdir()) == []


def test_a_sealed_file_of_another_project_names_both(fedhe_admin, trained, tmp_path):
    sealed = tmp_path / "model.sealed"
    assert fedhe_admin("model", "download", "tiny", "--out", sealed)[0] == 0
    sealed.write_bytes(sealed.read_bytes().replace(b'"trial"', b'"other"'))
    code, _, err = fedhe_admin("model", "open", sealed, "--out", tmp_path / "model.safetensors")
    assert code == 3
    assert "expected a checkpoint of project trial, got other" in err


def test_a_sealed_file_that_is_not_there_is_one_line(fedhe_admin, provisioned, tmp_path):
    code, _, err = fedhe_admin("model", "open", tmp_path / "no.sealed", "--out", tmp_path / "model.pt")
    assert code == 2
    assert err.count("\n") == 1
    assert "no.sealed" in err


def test_a_model_that_no_site_reported_is_not_written(fedhe_admin, script, trained, tmp_path):
    script.rounds[1].contributions[1].model_fingerprint = b"\x01" * 32
    code, _, err = fedhe_admin("model", "download", "tiny", "--out", tmp_path / "model.safetensors")
    assert code == 3
    assert "hospitalB 0101010101010101" in err
    assert list(tmp_path.iterdir()) == []


def test_a_download_shows_its_progress_to_a_person(fedhe_admin, trained, tmp_path, terminal, monkeypatch):
    screen = terminal()
    monkeypatch.setattr("sys.stderr", screen)
    assert fedhe_admin("model", "download", "tiny", "--out", tmp_path / "model.safetensors")[0] == 0
    assert "downloading" in screen.getvalue()


def test_a_download_survives_a_server_that_is_away_for_a_moment(fedhe_admin, script, trained, tmp_path, monkeypatch):
    monkeypatch.setattr("fedhe.cli.admin_session.FIRST_BACK_OFF_SECONDS", 0.001)
    script.failures = [("GetChunk", UnavailableError("the server restarts"))]
    assert fedhe_admin("model", "download", "tiny", "--out", tmp_path / "model.safetensors")[0] == 0


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize(
    ("name", "said"),
    [("model.onnx", ".safetensors, .pt, .pth, .sealed"), ("model", "model"), ("no/folder/model.pt", "no/folder")],
)
def test_a_target_that_cannot_be_written_is_refused_before_the_download(fedhe_admin, script, tmp_path, name, said):
    code, _, err = fedhe_admin("model", "download", "tiny", "--out", tmp_path / name)
    assert code == 2
    assert err.count("\n") == 1
    assert said in err
    assert script.calls == []


def test_a_file_that_exists_is_not_replaced_unasked(fedhe_admin, trained, tmp_path):
    out = tmp_path / "model.safetensors"
    out.write_text("precious")
    code, _, err = fedhe_admin("model", "download", "tiny", "--out", out)
    assert code == 2
    assert "--force" in err
    assert out.read_text() == "precious"
    assert fedhe_admin("model", "download", "tiny", "--out", out, "--force")[0] == 0
    assert out.read_bytes() != b"precious"


def test_a_version_that_is_not_stored_names_those_that_are(fedhe_admin, trained, tmp_path):
    code, _, err = fedhe_admin("model", "download", "tiny", "--version", "1", "--out", tmp_path / "m.pt")
    assert code == 6
    assert "stored versions: 0, 2" in err


def test_a_job_without_checkpoints_says_so(fedhe_admin, script, trained, tmp_path):
    script.checkpoints.clear()
    code, _, err = fedhe_admin("model", "download", "tiny", "--out", tmp_path / "m.pt")
    assert code == 6
    assert "no checkpoint yet" in err


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    out = tmp_path / "model.safetensors"
    out.write_text("old")

    def full(partial):
        partial.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(ResourceError, match="No space left on device"):
        write_whole(out, full)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert out.read_text() == "old"

    def refused(partial):
        partial.write_text("half")
        raise ConfigError("no")

    with pytest.raises(ConfigError):
        write_whole(out, refused)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
