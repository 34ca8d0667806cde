"""A small real job: a 3D U-Net on a handful of made volumes, as a folder that each test may change."""

import json
import os
from copy import deepcopy
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

KEYS = ["image", "label"]
CONFIG = {
    "epochs": 2,
    "use_gpu": False,
    "learning_rate": 0.02,
    "train": {
        "model": {
            "name": "UNet",
            "args": {
                "spatial_dims": 3, "in_channels": 1, "out_channels": 2,
                "channels": [4, 8], "strides": [2], "norm": "batch",
            },
        },
        "loss": {"name": "DiceLoss", "args": {"to_onehot_y": True, "softmax": True}},
        "optimizer": {"name": "Adam", "args": {"lr": "{learning_rate}"}},
        "pre_transforms": [
            {"name": "LoadImaged", "args": {"keys": KEYS}},
            {"name": "EnsureChannelFirstd", "args": {"keys": KEYS}},
            {"name": "RandFlipd", "args": {"keys": KEYS, "prob": 0.5, "spatial_axis": 0}},
        ],
        "dataset": {
            "name": "CacheDataset",
            "data_list": {"file": "{DATA_ROOT}/dataset.json"},
            "args": {"cache_rate": 1.0},
        },
        "dataloader": {"name": "DataLoader", "args": {"batch_size": 2, "shuffle": True}},
    },
    "validate": {
        "pre_transforms": [{"ref": "LoadImaged"}, {"ref": "EnsureChannelFirstd"}],
        "dataset": {"name": "Dataset", "data_list": {"file": "{DATA_ROOT}/dataset.json", "key": "validation"}},
        "post_transforms": [
            {"name": "AsDiscreted", "args": {"keys": "pred", "argmax": True, "to_onehot": 2}},
            {"name": "AsDiscreted", "args": {"keys": "label", "to_onehot": 2}},
        ],
        "metrics": [{"name": "MeanDice", "args": {"include_background": False}}],
    },
}  # fmt: skip


@pytest.fixture(scope="session")
def data_root(tmp_path_factory):
    """Six volumes with a bright cube each, in Decathlon layout: four to train on, two to validate."""
    nibabel = pytest.importorskip("nibabel")
    import numpy as np

    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    cases = []
    for number in range(6):
        label = np.zeros((12, 12, 12), np.uint8)
        x, y, z = rng.integers(1, 6, 3)
        label[x : x + 5, y : y + 5, z : z + 5] = 1
        image = (label * 2 + rng.normal(0, 0.5, label.shape)).astype(np.float32)
        for kind, volume in (("image", image), ("label", label)):
            nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), folder / f"{kind}{number}.nii.gz")
        cases.append({"image": f"./image{number}.nii.gz", "label": f"./label{number}.nii.gz"})
    (folder / "dataset.json").write_text(json.dumps({"training": cases[:4], "validation": cases[4:]}))
    return folder


@pytest.fixture
def config():
    """The job's configuration, to be changed before it is written."""
    return deepcopy(CONFIG)


@pytest.fixture
def make_job(tmp_path, data_root):
    """Writes a job folder from a configuration and files of own code; returns the folder."""

    def make(config, *, code=None, environment=None, name="job"):
        folder = tmp_path / name
        (folder / "config").mkdir(parents=True)
        (folder / "config" / "config_train.json").write_text(json.dumps(config, indent=1))
        values = {"DATA_ROOT": str(data_root)} if environment is None else environment
        (folder / "config" / "environment.json").write_text(json.dumps(values, indent=1))
        for path, text in (code or {}).items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return folder

    return make


@pytest.fixture
def perform(tmp_path):
    """Runs a task in this process; returns its result and, where there is one, the model's tensors."""
    from safetensors.torch import load_file

    from fedhe.config.trainer import MODEL_FILE, TrainRequest
    from fedhe.training.tasks import run_task

    count = [0]

    def run(task, job, **fields):
        count[0] += 1
        output = tmp_path / f"output{count[0]}"
        output.mkdir()
        reports = fields.pop("reports", [])
        ticks = iter(range(1_000_000))
        result = run_task(
            TrainRequest(task=task, mmar=job, output=output, **fields), reports.append, lambda: float(next(ticks))
        )
        model = output / MODEL_FILE
        return result, load_file(model) if model.exists() else None, Path(model)

    return run
