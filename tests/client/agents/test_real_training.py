"""One agent with the real training process: MONAI, a norm layer, own network, up to READY."""

import json

import numpy as np

from fedhe.client.note import read_note
from fedhe.client.trainer import TrainingProcess
from fedhe.trust.sealed import NoteContext, open_note
from fedhe.wire.messages import parse_ready

CASES = """
import numpy as np


def boxes(count, slope, first):
    cases = []
    for number in range(first, first + count):
        rng = np.random.default_rng(number)
        label = np.zeros((1, 8, 8, 8), np.float32)
        label[0, 2:6, 2:6, 2:6] = 1
        image = slope * label + rng.normal(0, 0.3, label.shape).astype(np.float32)
        cases.append({"image": image.astype(np.float32), "label": label})
    return cases
"""
NETWORK = """
import torch


class TinyNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv3d(1, 4, 3, padding=1), torch.nn.BatchNorm3d(4), torch.nn.Conv3d(4, 2, 3, padding=1)
        )

    def forward(self, image):
        return self.layers(image)
"""


def config():
    def cases(count, first):
        return {
            "name": "Dataset",
            "data_list": {"path": "BYOC.cases.boxes", "args": {"count": count, "slope": "{SLOPE}", "first": first}},
        }

    to_tensor = [{"name": "EnsureTyped", "args": {"keys": ["image", "label"]}}]
    return {
        "epochs": 1,
        "use_gpu": False,
        "determinism": {"random_seed": 7},
        "train": {
            "model": {"path": "BYOC.net.TinyNet"},
            "loss": {"name": "DiceCELoss", "args": {"to_onehot_y": True, "softmax": True}},
            "optimizer": {"name": "Adam", "args": {"lr": 0.02}},
            "pre_transforms": to_tensor,
            "dataset": cases("{CASES}", 0),
            "dataloader": {"name": "DataLoader", "args": {"batch_size": 2}},
        },
        "validate": {
            "pre_transforms": to_tensor,
            "dataset": cases(2, 1000),
            "dataloader": {"name": "DataLoader", "args": {"batch_size": 2}},
            "post_transforms": [
                {"name": "AsDiscreted", "args": {"keys": "pred", "argmax": True, "to_onehot": 2}},
                {"name": "AsDiscreted", "args": {"keys": "label", "to_onehot": 2}},
            ],
            "metrics": [
                {
                    "name": "MeanDice", "log_label": "val_mean_dice", "is_key_metric": True,
                    "args": {"include_background": False},
                }
            ],
        },
    }  # fmt: skip


async def test_the_real_training_process_brings_a_site_to_ready(federate, make_job):
    async with federate() as (server, agents):
        agents.process = TrainingProcess()
        agents.policy("A", "gpus: none", CASES=3, SLOPE=0.5)
        job = server.add_job(
            make_job(
                extra={
                    "config/config_train.json": json.dumps(config()),
                    "config/environment.json": '{"CASES": 1, "SLOPE": 1.0}',
                    "BYOC/cases.py": CASES,
                    "BYOC/net.py": NETWORK,
                }
            )
        )
        agents.start("A")
        await server.until(lambda: bool(job.state.ready) or bool(server.reports), seconds=200)
        assert server.reports == []
        said = parse_ready(job.state.ready[0].body)
        place = NoteContext(project="brain-mri", job_id="j1", round=1, attempt=1, site="A", nonce=said.nonce)
        note = read_note(open_note(agents.project.group_key, context=place, note=said.sealed_note))
        assert note.samples == 3
        assert note.main_metric == "val_mean_dice"
        assert 0 <= note.metrics["val_mean_dice"] <= 1
        statistics = {name for name in note.max_change if "running" in name}
        assert statistics == {"layers.1.running_mean", "layers.1.running_var"}
        assert all(change > 0 for change in note.max_change.values())
        assert not any("num_batches_tracked" in name for name in note.max_change)
        folder = agents.folder("A") / "jobs" / "j1"
        assert (folder / "local_state.safetensors").exists()
        assert agents.model("A", 0)["layers.0.weight"].dtype == np.float32
