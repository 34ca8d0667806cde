"""The two example jobs: what they send to sites, and that they train as they stand."""

import numpy as np
import pytest
import torch

from fedhe.config.job_archive import pack_job, read_job
from fedhe.config.mmar import load_mmar
from fedhe.training.cases import find_cases
from fedhe.training.components import Builder


def files_of(job):
    return set(read_job(pack_job(job)).files)


def network_of(job):
    mmar = load_mmar(job)
    return Builder(mmar, "train").build(mmar.config.train.model, ("train", "model"), "model")


def test_brain_tissue_sends_no_code_to_the_sites(examples):
    assert files_of(examples / "brain_tissue") == {
        "README.md",
        "config/config_fed.yml",
        "config/config_train.json",
        "config/environment.json",
    }


def test_hippocampus_sends_its_own_network_and_loss_and_nothing_else_that_runs(examples):
    code = {name for name in files_of(examples / "hippocampus") if name.endswith(".py")}
    assert code == {"BYOC/myNetworkArch.py", "BYOC/myLoss.py"}


@pytest.mark.parametrize("job", ["brain_tissue", "hippocampus"])
def test_a_jobs_network_is_large_enough_that_padding_does_not_show(examples, job):
    assert sum(weight.numel() for weight in network_of(examples / job).parameters()) >= 150_000


def test_only_hippocampus_has_statistics_to_average(examples):
    def statistics(job):
        return [name for name in network_of(examples / job).state_dict() if "running_" in name]

    assert statistics("hippocampus")
    assert not statistics("brain_tissue")


def test_brain_tissue_trains_one_epoch_as_it_stands(train_locally, examples, brain_data):
    result = train_locally(
        examples / "brain_tissue",
        f"DATA_ROOT={brain_data / 'hospitalC'}",
        "epochs=1",
        "num_interval_per_valid=1",
        "patches_per_volume=1",
    )
    assert result["main_metric"] == "val_mean_dice"
    assert result["samples"] == 4


def test_hippocampus_trains_one_epoch_as_it_stands(train_locally, examples, decathlon_folder):
    result = train_locally(
        examples / "hippocampus",
        f"DATA_ROOT={decathlon_folder}",
        "SITE_INDEX=1",
        "epochs=1",
        "num_interval_per_valid=1",
    )
    assert result["main_metric"] == "val_mean_dice"
    assert result["samples"] == 4  # of 15 volumes five are this site's, and one of these validates


def test_hippocampus_deals_every_volume_to_one_site_and_never_validates_on_what_trains(examples, decathlon_folder):
    seen = []
    for index in range(3):
        mmar = load_mmar(
            examples / "hippocampus",
            overrides={"DATA_ROOT": str(decathlon_folder), "SITE_INDEX": index, "SITE_COUNT": 3},
        )
        for section, part in (("train", mmar.config.train), ("validate", mmar.config.validate_)):
            cases = find_cases(Builder(mmar, section), part.dataset.cases, (section, "dataset", "data_list"))
            seen += [case["image"] for case in cases]
    assert len(seen) == 15
    assert len(set(seen)) == 15


@pytest.fixture
def byoc(examples, monkeypatch):
    monkeypatch.syspath_prepend(str(examples / "hippocampus"))
    from BYOC import myLoss, myNetworkArch

    return myNetworkArch.MyBasicUNet, myLoss.DiceTopKLoss


def test_my_basic_unet_keeps_the_volumes_shape(byoc):
    network = byoc[0](out_channels=4, features=(4, 8, 16))
    assert network(torch.zeros(2, 1, 8, 12, 4)).shape == (2, 4, 8, 12, 4)


def test_my_basic_unet_says_which_sides_it_takes(byoc):
    with pytest.raises(ValueError, match=r"divide by 8, got \(8, 12, 8\)"):
        byoc[0]()(torch.zeros(1, 1, 8, 12, 8))
    with pytest.raises(ValueError, match="at least 2 levels"):
        byoc[0](features=(8,))


def test_dice_top_k_with_every_voxel_is_dice_plus_plain_cross_entropy(byoc):
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 4, 4, 4), torch.randint(0, 3, (2, 1, 4, 4, 4))
    loss = byoc[1](part=1.0)
    plain = torch.nn.functional.cross_entropy(logits, labels[:, 0])
    assert loss(logits, labels).item() == pytest.approx((loss.dice(logits, labels) + plain).item(), rel=1e-6)
    assert byoc[1](part=0.1)(logits, labels) > loss(logits, labels)


@pytest.mark.parametrize("part", [0.0, -0.5, 1.5, float("nan")])
def test_dice_top_k_refuses_a_part_that_is_none(byoc, part):
    with pytest.raises(ValueError, match="more than 0 and at most 1"):
        byoc[1](part=part)


def test_mean_dice_counts_only_structures_that_are_there():
    from demo_predictions import mean_dice

    truth = np.array([[0, 1], [1, 0]])
    assert mean_dice(truth, truth, 3) == 1.0
    assert mean_dice(np.zeros_like(truth), truth, 3) == 0.0
    assert mean_dice(np.array([[1, 1], [1, 0]]), truth, 3) == pytest.approx(0.8)
    assert mean_dice(truth, np.zeros_like(truth), 3) == 1.0
