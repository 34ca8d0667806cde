"""The training process: events on standard output, everything else on standard error, one last line on failure."""

import json
import subprocess
import sys

import pytest

from fedhe.config.trainer import TrainRequest, read_result


@pytest.fixture
def start(tmp_path):
    """Starts the process with a request; returns it when it has ended."""

    def run(**fields):
        request = tmp_path / "request.json"
        request.write_text(TrainRequest(output=tmp_path / "output", **fields).model_dump_json())
        command = [sys.executable, "-m", "fedhe.training.process", str(request)]
        bare = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}
        return subprocess.run(command, cwd=tmp_path, env=bare, capture_output=True, text=True, check=False, timeout=120)

    return run


LOUD = """
import os
from torch import nn

print("hello from the job")
os.write(1, b"hello from below\\n")

class Net(nn.Conv3d):
    pass
"""


def test_it_tells_progress_as_json_lines_and_leaves_a_result(make_job, config, start, tmp_path):
    config["train"]["model"] = {
        "path": "BYOC.net.Net",
        "args": {"in_channels": 1, "out_channels": 2, "kernel_size": 1},
    }
    ended = start(task="train", mmar=make_job(config, code={"BYOC/net.py": LOUD}), round=1, epochs=1)
    assert ended.returncode == 0, ended.stderr
    events = [json.loads(line) for line in ended.stdout.splitlines()]
    assert {event["event"] for event in events} == {"progress"}
    assert {event["activity"] for event in events} == {"validating", "training"}
    assert "hello from the job" in ended.stderr
    assert "hello from below" in ended.stderr
    result = read_result(tmp_path / "output")
    assert result.samples == 4
    assert (tmp_path / "output" / "model.safetensors").exists()


def test_it_ends_with_code_9_and_one_last_line(make_job, config, start, tmp_path):
    config["train"]["model"]["name"] = "UNett"
    ended = start(task="train", mmar=make_job(config), round=1)
    assert ended.returncode == 9
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert "train.model.name: unknown model 'UNett'" in last
    assert last.endswith("did you mean 'UNet'?")
    assert ended.stdout == ""
    assert not (tmp_path / "output" / "result.json").exists()


def test_a_request_that_is_none_is_one_line(tmp_path):
    command = [sys.executable, "-m", "fedhe.training.process", str(tmp_path / "none.json")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1
