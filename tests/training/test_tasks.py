"""A real small job is initialised, trained and validated; the same seed gives the same weights."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fedhe.errors import TrainingError


def test_a_job_learns(make_job, config, perform):
    job = make_job(config)
    start, weights, model = perform("init", job, seed=1)
    assert (start.samples, start.metrics, start.train_loss) == (0, {}, None)
    assert [tensor.name for tensor in start.layout] == list(
        {info.name: None for info in start.layout if weights[info.name].shape == info.shape}
    )
    reports = []
    result, trained, _ = perform("train", job, seed=1, model_in=model, round=1, epochs=6, reports=reports)
    assert result.samples == 4
    assert result.main_metric == "val_mean_dice"
    assert list(result.metrics) == ["val_mean_dice"]
    assert len(result.epoch_losses) == 6
    assert result.train_loss == result.epoch_losses[-1] < result.epoch_losses[0]
    assert trained.keys() == weights.keys()
    assert all(tensor.dtype == torch.float32 for tensor in trained.values())
    assert any(not torch.equal(trained[name], weights[name]) for name in weights)
    assert {report.activity for report in reports} == {"validating", "training"}
    assert reports[-1].fraction == 1.0


def test_the_metrics_of_a_round_are_those_of_the_model_that_it_starts_from(make_job, config, perform):
    job = make_job(config)
    _, _, model = perform("init", job)
    trained, _, after = perform("train", job, model_in=model, round=1, epochs=8)
    before, _, _ = perform("validate", job, model_in=model, round=0)
    later, _, _ = perform("validate", job, model_in=after, round=1)
    assert before.metrics == trained.metrics
    assert later.metrics["val_mean_dice"] > before.metrics["val_mean_dice"]
    assert later.samples == 0


def test_seed_and_round_decide_all_randomness(make_job, config, perform):
    job = make_job(config)
    _, first, model = perform("init", job, seed=7)
    _, again, _ = perform("init", job, seed=7)
    _, other, _ = perform("init", job, seed=8)
    assert same(first, again)
    assert not same(first, other)
    fields = {"model_in": model, "seed": 7, "epochs": 2}
    _, one, _ = perform("train", job, round=1, **fields)
    torch.rand(3)
    np.random.rand(3)  # noqa: NPY002 - the global generator is the one that must not matter
    _, two, _ = perform("train", job, round=1, validate_first=False, **fields)
    _, three, _ = perform("train", job, round=2, **fields)
    assert same(one, two)
    assert not same(one, three)


def test_workers_do_not_change_the_result(make_job, config, perform):
    config["train"]["dataloader"]["args"]["num_workers"] = 1
    job = make_job(config)
    _, _, model = perform("init", job)
    results = [perform("train", job, model_in=model, round=1, epochs=1)[1] for _ in range(2)]
    assert same(*results)


def test_integer_buffers_stay_and_come_back(make_job, config, perform, tmp_path):
    job = make_job(config)
    result, weights, model = perform("init", job)
    assert not any("num_batches_tracked" in name for name in weights)
    statistics = [tensor.name for tensor in result.layout if tensor.statistic]
    assert statistics
    assert all(name.endswith(("running_mean", "running_var")) for name in statistics)
    local = tmp_path / "local.safetensors"
    fields = {"model_in": model, "epochs": 1, "local_state": local}
    perform("train", job, round=1, **fields)
    kept = load_file(local)
    assert all(name.endswith("num_batches_tracked") for name in kept)
    assert {int(value) for value in kept.values()} == {2}
    perform("train", job, round=2, **fields)
    assert {int(value) for value in load_file(local).values()} == {4}


def test_a_round_that_is_trained_again_starts_from_the_same_local_state(make_job, config, perform, tmp_path):
    job = make_job(config)
    local = tmp_path / "local.safetensors"
    fields = {"epochs": 1, "local_state": local, "exclude": ("model.1*",)}
    _, _, model = perform("init", job, exclude=("model.1*",))
    perform("train", job, round=1, model_in=model, **fields)
    _, first, _ = perform("train", job, round=2, model_in=model, **fields)
    kept = load_file(local)
    _, second, _ = perform("train", job, round=2, model_in=model, **fields)
    assert same(first, second)
    assert same(kept, load_file(local))


def test_excluded_tensors_and_statistics_stay(make_job, config, perform):
    job = make_job(config)
    everything, _, _ = perform("init", job)
    result, weights, _ = perform("init", job, exclude=("*.bias",), share_statistics=False)
    names = [tensor.name for tensor in result.layout]
    assert names == list(weights) or set(names) == set(weights)
    assert not any(name.endswith("bias") for name in names)
    assert not any(tensor.statistic for tensor in result.layout)
    assert len(names) < len(everything.layout)


def test_an_exclusion_that_matches_nothing_is_a_typo(make_job, config, perform):
    with pytest.raises(TrainingError, match=r"exclude: no tensor is named like 'modell\.\*'"):
        perform("init", make_job(config), exclude=("modell.*",))


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_models_of_other_precision_travel_as_float32(make_job, config, perform, dtype):
    code = f"""
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(1, 2, 3, padding=1).to(torch.{dtype})
        self.register_buffer("scale", torch.tensor(1.0, dtype=torch.{dtype}))

    def forward(self, x):
        return (self.conv(x.to(self.conv.weight.dtype)) * self.scale).float()
"""
    config["train"]["model"] = {"path": "BYOC.net.Small"}
    job = make_job(config, code={"BYOC/net.py": code})
    result, weights, model = perform("init", job)
    assert {(tensor.name, tensor.dtype) for tensor in result.layout} == {
        ("conv.weight", dtype), ("conv.bias", dtype), ("scale", dtype)
    }  # fmt: skip
    assert weights["scale"].shape == ()
    assert all(tensor.dtype == torch.float32 for tensor in weights.values())
    _, trained, _ = perform("train", job, model_in=model, round=1, epochs=1)
    assert not same(trained, weights)


def test_a_negative_variance_from_rounding_does_no_harm(make_job, config, perform, tmp_path):
    job = make_job(config)
    _, weights, _ = perform("init", job)
    for name in weights:
        if name.endswith("running_var"):
            weights[name].fill_(-1e-4)
    save_file(weights, tmp_path / "odd.safetensors")
    result, _, _ = perform("validate", job, model_in=tmp_path / "odd.safetensors")
    assert "val_mean_dice" in result.metrics


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.0.conv.bias"), "tensor 'model.0.conv.bias' of this job's model is missing"),
        (lambda t: t.update(extra=torch.zeros(1)), "tensor 'extra' is not in this job's model"),
        (lambda t: t.update({"model.0.conv.bias": torch.zeros(5)}), r"expected shape \(4,\), got \(5,\)"),
    ],
)
def test_a_model_of_another_layout_is_refused(make_job, config, perform, tmp_path, *, change, message):
    job = make_job(config)
    _, weights, _ = perform("init", job)
    change(weights)
    save_file(weights, tmp_path / "other.safetensors")
    with pytest.raises(TrainingError, match=message):
        perform("train", job, model_in=tmp_path / "other.safetensors", round=1)


def test_a_loss_that_is_no_number_stops_the_training(make_job, config, perform):
    config["learning_rate"] = 1e30
    with pytest.raises(TrainingError, match="the loss became nan in iteration"):
        perform("train", make_job(config), round=1, epochs=5)


def test_a_weight_that_is_no_number_is_named(make_job, config, perform):
    code = """
import torch
from torch import nn

class Poisoned(nn.Conv3d):
    def forward(self, x):
        self.spare.fill_(float("nan"))
        return super().forward(x)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.register_buffer("spare", torch.zeros(2))
"""
    config["train"]["model"] = {
        "path": "net.Poisoned",
        "args": {"in_channels": 1, "out_channels": 2, "kernel_size": 1},
    }
    with pytest.raises(TrainingError, match="tensor 'spare': 2 of 2 values are not finite"):
        perform("train", make_job(config, code={"net.py": code}), round=1, epochs=1)


def test_the_learning_rate_goes_on_where_the_last_round_left_it(make_job, config, perform):
    code = """
import torch

seen = []

class Noting(torch.optim.SGD):
    def step(self, closure=None):
        seen.append(self.param_groups[0]["lr"])
        print("lr", self.param_groups[0]["lr"])
        return super().step(closure)
"""
    del config["learning_rate"]
    config["train"]["optimizer"] = {"path": "own.Noting", "args": {"lr": 1.0}}
    config["train"]["lr_scheduler"] = {"name": "StepLR", "args": {"step_size": 1, "gamma": 0.5}}
    job = make_job(config, code={"own.py": code})
    _, _, model = perform("init", job)
    import sys

    perform("train", job, model_in=model, round=1, epochs=2)
    perform("train", job, model_in=model, round=3, epochs=2)
    assert sys.modules["own"].seen == [1.0, 1.0, 0.5, 0.5, 0.0625, 0.0625, 0.03125, 0.03125]


def test_without_a_federation_it_validates_as_it_goes_and_keeps_the_best(make_job, config, perform):
    config["num_interval_per_valid"] = 2
    config["epochs"] = 5
    result, weights, model = perform("train", make_job(config))
    assert list(result.validations) == [2, 4, 5]
    assert result.metrics == result.validations[5]
    assert result.best_epoch in result.validations
    best = load_file(model.with_name("model_best.safetensors"))
    assert same(best, weights) == (result.best_epoch == 5)


def test_a_job_without_validation_has_no_metrics(make_job, config, perform):
    del config["validate"]
    job = make_job(config)
    _, _, model = perform("init", job)
    result, _, _ = perform("train", job, model_in=model, round=1, epochs=1)
    assert (result.metrics, result.main_metric) == ({}, None)


def test_metrics_are_ordered_flattened_and_finite(make_job, config, perform):
    config["validate"]["metrics"] = [
        {"name": "HausdorffDistance", "args": {"include_background": False}},
        {"name": "MeanDice", "log_label": "dice", "is_key_metric": True, "args": {"reduction": "mean_channel"}},
        {"name": "Accuracy"},
    ]
    config["validate"]["metrics"].pop()
    config["validate"]["metrics"][1]["args"] = {"include_background": True}
    config["validate"]["metrics"].append(
        {"name": "MeanDice", "log_label": "each", "args": {"reduction": "mean_batch", "include_background": True}}
    )
    job = make_job(config)
    _, _, model = perform("init", job)
    result, _, _ = perform("validate", job, model_in=model)
    assert list(result.metrics) == ["dice", "val_hausdorff_distance", "each_0", "each_1"]
    assert result.main_metric == "dice"


@pytest.mark.parametrize("args", [{}, {"output_transform": "loss"}])
def test_a_handler_that_shows_the_loss_gets_one_number_for_a_batch(make_job, config, perform, recwarn, args):
    config["train"]["handlers"] = [{"name": "StatsHandler", "args": {"tag_name": "loss", **args}}]
    perform("train", make_job(config), round=1, validate_first=False)
    assert not [warning for warning in recwarn if "non-scalar" in str(warning.message)]


@pytest.mark.slow
def test_two_processes_train_together(make_job, config, perform, tmp_path):
    """The processes that work on GPUs, here on two CPU devices: same model in both, equal parts of the cases."""
    from fedhe.config.trainer import TrainRequest
    from fedhe.training.parallel import train_in_parallel

    config["train"]["handlers"] = [{"name": "StatsHandler", "rank": 0, "args": {"tag_name": "loss"}}]
    config["validate"]["dataset"]["data_list"] |= {"key": "training", "limit": 3}  # uneven shares must not hang
    job = make_job(config)
    output = tmp_path / "together"
    output.mkdir()
    request = TrainRequest(task="train", mmar=job, output=output, epochs=2)
    reports = []
    trained = train_in_parallel(request, (torch.device("cpu"), torch.device("cpu")), reports.append)
    assert trained.samples == 4
    assert len(trained.losses) == 2
    assert set(trained.validations) == {1, 2}
    assert reports[-1].fraction == 1.0
    assert load_file(output / "model.safetensors")


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
