"""`fedhe-train`: one job on this computer, its table, files and errors."""

import json
import sys

import numpy as np
import pytest

from fedhe.cli import train as command


@pytest.fixture
def fedhe_train(monkeypatch, capsys):
    """Runs the command in this process; returns exit code, output and error output."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["fedhe-train", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            command.main()
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return run


def test_it_trains_and_writes_what_pytorch_can_read(make_job, config, fedhe_train):
    import torch
    from safetensors.torch import load_file

    job = make_job(config)
    code, out, _ = fedhe_train("-m", job, "-c", "config_train.json", "-e", "environment.json", "--set", "epochs=3",
                               "learning_rate=0.05")  # fmt: skip
    assert code == 0
    assert "val_mean_dice" in out
    assert "4 cases" in out
    checkpoint = torch.load(job / "models" / "model.pt", weights_only=True)
    tensors = load_file(job / "models" / "model.safetensors")
    assert checkpoint.keys() == tensors.keys()
    assert all(torch.equal(checkpoint[name], tensors[name]) for name in tensors)
    assert (job / "models" / "model_best.pt").exists()


def test_its_json_is_one_document(make_job, config, fedhe_train, tmp_path):
    config["train"]["handlers"] = [{"name": "StatsHandler", "args": {"tag_name": "loss"}}]
    code, out, _ = fedhe_train("-m", make_job(config), "--json", "--output", tmp_path / "out", "--seed", 4)
    assert code == 0
    document = json.loads(out)
    assert list(document["validations"]) == ["1", "2"]
    assert document["samples"] == 4
    assert document["parameters"] > 0
    assert all(str(tmp_path / "out") in file for file in document["files"])


def test_check_builds_everything_and_trains_nothing(make_job, config, fedhe_train):
    job = make_job(config)
    code, out, _ = fedhe_train("-m", job, "--check")
    assert code == 0
    assert "4 training cases, 2 validation cases" in out
    assert not (job / "models").exists()


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["--set", "epoch=3"], 2, "did you mean 'epochs'?"),
        (["--set", "train.loss.name=DiceLos"], 9, "did you mean 'DiceLoss'?"),
        (["-c", "config_tran.json"], 2, "did you mean 'config_train.json'?"),
        (["--gpus", "first"], 2, "expected auto, none or numbers"),
        (["--model", "/none.safetensors"], 2, "/none.safetensors"),
        (["--output", "/proc/none"], 7, "/proc/none"),
        (["--set", "DATA_ROOT=/none"], 9, "the data folder /none does not exist"),
    ],
)
def test_what_is_wrong_is_one_line(make_job, config, fedhe_train, arguments, *, exit_code, message):
    code, out, err = fedhe_train("-m", make_job(config), *arguments)
    assert code == exit_code
    assert out == ""
    assert message in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("error: ")


def test_version_and_help_need_no_torch(fedhe_train):
    code, out, _ = fedhe_train("--version")
    assert code == 0
    assert out.startswith("fedhe-train ")
    code, out, _ = fedhe_train("--help")
    assert code == 0
    assert "--set" in out


def test_a_checkpoint_for_pytorch_is_written_whole_or_not_at_all(tmp_path):
    import torch

    from fedhe.errors import ResourceError
    from fedhe.training.export import write_pytorch

    tensors = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3).T, "scalar": np.float32(2).reshape(())}
    write_pytorch(tensors, tmp_path / "model.pt")
    read = torch.load(tmp_path / "model.pt", weights_only=True)
    assert np.array_equal(read["a.weight"].numpy(), tensors["a.weight"])
    assert read["scalar"].shape == ()
    with pytest.raises(ResourceError, match="cannot be written"):
        write_pytorch(tensors, tmp_path / "none" / "model.pt")
