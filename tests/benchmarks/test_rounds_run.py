"""Small runs of what the benchmark is made of: the model, its trainer, and a plain federation of real programs."""

import json
import math
import subprocess
import sys

import he_micro
import numpy as np
import pytest
import round_measure
from round_federation import PLAIN
from round_model import model_shapes
from safetensors.numpy import load_file

from fedhe.config.trainer import read_result


@pytest.mark.parametrize("parameters", [10_000, 1_200_000, 24_728_011, 100_000_000])
def test_a_model_has_twenty_tensors_and_exactly_as_many_values_as_asked(parameters):
    shapes = model_shapes(parameters)
    assert len(shapes) == 20
    assert sum(map(math.prod, shapes.values())) == parameters
    assert min(map(math.prod, shapes.values())) > 0


def test_a_model_smaller_than_its_biases_is_refused():
    with pytest.raises(ValueError, match="expected at least"):
        model_shapes(100)


def train(benchmarks, folder, task, *, model=None, samples=10, round_=1):
    folder.mkdir()
    request = {
        "task": task, "model_in": model and str(model), "output": str(folder), "seed": 1, "round": round_,
        "overrides": {"PARAMETERS": 1_100_000, "SAMPLES": samples},
    }  # fmt: skip
    file = folder / "request.json"
    file.write_text(json.dumps(request))
    subprocess.run([sys.executable, str(benchmarks / "round_trainer.py"), str(file)], check=True, timeout=60)
    return read_result(folder), load_file(folder / "model.safetensors")


def test_the_trainer_adds_small_noise_that_site_and_round_decide(benchmarks, tmp_path):
    _, first = train(benchmarks, tmp_path / "init", "init", round_=0)
    model = tmp_path / "init" / "model.safetensors"
    result, after = train(benchmarks, tmp_path / "a", "train", model=model)
    assert result.samples == 10
    assert {tensor.name: tensor.shape for tensor in result.layout} == model_shapes(1_100_000)
    _, again = train(benchmarks, tmp_path / "b", "train", model=model)
    _, other = train(benchmarks, tmp_path / "c", "train", model=model, samples=20)
    for name, before in first.items():
        change = after[name] - before
        assert 0.0 < np.abs(change).max() < 0.1
        np.testing.assert_array_equal(after[name], again[name])
        assert (after[name] != other[name]).any()


def test_every_step_is_measured_and_the_sums_are_exact(monkeypatch):
    monkeypatch.setattr(he_micro.os, "sched_setaffinity", lambda *_: None)
    report = he_micro.measure(["seal"], 20_000, turns=1)
    assert set(report) == {"seal", "nvflare"}
    for entry in report.values():
        assert set(entry) >= {"encrypt_ns", "decrypt_ns", "sum_ns_per_site", "bytes_up", "bytes_down"}
        assert min(entry.values()) > 0


def test_plain_rounds_run_through_the_real_programs_at_four_bytes_a_value(tmp_path):
    measured = round_measure.measure(tmp_path, PLAIN, 10_000, sites=3, rounds=1)
    assert (measured["engine"], measured["parameters"], measured["sites"]) == (PLAIN, 10_000, 3)
    assert measured["bytes_up"] == measured["bytes_down"] == 40_000
    assert 0 < measured["exchange_seconds"] <= measured["seconds"]
    assert measured["cpu_seconds"] > 0
    assert measured["server_peak_rss"] > 10_000_000
    site = tmp_path / "site-homes" / "sites"
    models = [load_file(next(folder.glob("jobs/*/model-3.safetensors"))) for folder in sorted(site.iterdir())]
    assert len(models) == 3
    for name, tensor in models[0].items():
        np.testing.assert_array_equal(tensor, models[1][name])
        np.testing.assert_array_equal(tensor, models[2][name])


def test_nothing_in_the_product_knows_of_the_plain_mode(benchmarks):
    names = ["plain_client", "plain_server", "leave_encryption_out", "sum_floats", "PlainEngine", "round_site"]
    for path in (benchmarks.parent / "fedhe").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not [name for name in names if name in text], path
