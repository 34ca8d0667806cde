"""The precision study: its two averages, what it concludes from numbers, and that it runs from end to end."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SAMPLES = {"site-1": 5, "site-2": 4, "site-3": 7}


@pytest.fixture
def module(monkeypatch):
    """The benchmarks are scripts: their folder is put on the path, as `python benchmarks/precision.py` does."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("monai")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture
def update():
    """A model of two tensors, and three sites' changes of it."""
    from fedhe.model.layout import Layout, TensorSpec

    def make(bits):
        layout = Layout((
            TensorSpec("conv", (100, 30), "float32", statistic=False, field_bits=bits),
            TensorSpec("mean", (50,), "float32", statistic=True, field_bits=24),
        ))  # fmt: skip
        rng = np.random.default_rng(1)
        before = rng.normal(size=layout.n_values).astype(np.float32)
        changes = {site: rng.normal(scale=0.01, size=layout.n_values).astype(np.float32) for site in SAMPLES}
        return layout, before, changes

    return make


def test_float32_averaging_is_the_weighted_mean(module, update):
    _, before, changes = update(16)
    done = module("precision_federation").average_float32(before, changes, SAMPLES)
    mean = sum(SAMPLES[site] / 16 * change.astype(np.float64) for site, change in changes.items())
    assert done.model.dtype == np.float32
    assert np.allclose(done.model, before + mean, rtol=0, atol=1e-6)
    assert done.bytes_up == done.bytes_down == 4 * before.size


@pytest.mark.parametrize("bits", [12, 16, 24])
def test_encrypted_averaging_is_float32_averaging_up_to_one_step_for_each_site(module, update, bits):
    from fedhe.he.fast_engine import FastEngine
    from fedhe.he.keys import SecretKey
    from fedhe.he.params import DEFAULT_PARAMS

    federation = module("precision_federation")
    layout, before, changes = update(bits)
    params = DEFAULT_PARAMS.with_precision(bits, 24)
    engine = FastEngine(params, SecretKey.generate(params))
    done = federation.average_encrypted(before, changes, SAMPLES, layout, engine, seed=1, round_=1)
    plain = federation.average_float32(before, changes, SAMPLES)
    step = max(np.abs(change).max() for change in changes.values()) / params.grid_max(bits, 3)
    assert np.abs(done.model.astype(np.float64) - plain.model).max() <= 3 * step + 1e-6
    if bits < 24:
        assert not np.array_equal(done.model, plain.model)


def test_the_interval_is_students(module):
    """Three values of standard deviation 1: 4.303 / sqrt(3)."""
    interval95 = module("precision_summary").interval95
    assert interval95([1.0, 2.0, 3.0]) == pytest.approx(2.484, abs=1e-3)
    assert interval95([1.0]) is None


def precision(bits, difference, half):
    return {
        "bits": bits, "label": f"{bits} bits", "difference": difference, "difference_interval95": half,
        "differs": abs(difference) > half, "bytes_up": bits / 6, "bytes_down": bits / 6, "noise_to_change": 2.0**-bits,
    }  # fmt: skip


def test_the_page_keeps_16_bits_where_no_difference_is_measured(module):
    decide = module("precision_page")._decision
    text = decide([precision(12, -0.001, 0.01), precision(16, 0.002, 0.01), precision(24, 0.0, 0.01)])
    assert "16 bits stay the default" in text
    assert "12 bits save 25% of the bytes at 16 times the rounding noise" in text
    assert "24 bits cost 50% more bytes and gain nothing" in text


def test_the_page_says_so_where_12_bits_differ(module):
    text = module("precision_page")._decision([precision(12, -0.05, 0.01), precision(16, 0.002, 0.01)])
    assert "16 bits stay the default" in text
    assert "12 bits would save 25% of the bytes, but Dice differs" in text


def test_the_page_gives_up_the_default_where_16_bits_cost_dice(module):
    text = module("precision_page")._decision([precision(16, -0.05, 0.01)])
    assert "the default has to be looked at again" in text
    assert "stay" not in text


@pytest.fixture
def volumes(tmp_path):
    """Fifteen small volumes in the Decathlon's layout: bright ellipsoids of two halves on noise."""
    nibabel = pytest.importorskip("nibabel")
    folder, listed = tmp_path / "volumes", []
    axes = np.meshgrid(*(np.linspace(-1, 1, 32),) * 3, indexing="ij")
    for number in range(15):
        rng = np.random.default_rng(number)
        inside = sum(axis**2 for axis in axes) < rng.uniform(0.2, 0.5)
        label = np.where(inside, np.where(axes[1] > 0, 1, 2), 0).astype(np.uint8)
        image = (rng.normal(100, 20, label.shape) + 150 * inside + 50 * (label == 1)).astype(np.float32)
        case = {}
        for key, voxels in (("image", image), ("label", label)):
            case[key] = f"{key}s/case_{number:02d}.nii.gz"
            (folder / f"{key}s").mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), folder / case[key])
        listed.append(case)
    (folder / "dataset.json").write_text(json.dumps({"name": "made up", "training": listed}))
    return folder


@pytest.mark.slow
def test_a_quick_study_runs_and_a_second_one_uses_what_is_there(volumes, tmp_path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    command = [sys.executable, BENCHMARKS / "precision.py", "--quick", "--data", volumes, "--out", out]

    def study():
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout, json.loads((out / "report.json").read_text())

    said, report = study()
    assert said.count("round 2 of 2") == 4
    plain, *fixed = report["precisions"]
    assert [one["bits"] for one in (plain, *fixed)] == [0, 12, 16, 24]
    assert (plain["bytes_up"], plain["max_error"]) == (4.0, 0.0)
    first = [run["dice"][0] for run in report["runs"]]
    assert all(dice == first[0] for dice in first)
    assert [len(run["dice"]) for run in report["runs"]] == [3] * 4
    assert fixed[0]["max_error"] > fixed[1]["max_error"] > fixed[2]["max_error"]
    assert [one["bytes_up"] < 4 for one in fixed] == [True] * 3
    text = (out / "precision.md").read_text()
    assert "this was a trial run" in text
    assert str(tmp_path) not in text
    assert (out / "images" / "precision.png").stat().st_size > 10_000

    said, again = study()
    assert "round" not in said
    assert again["runs"] == report["runs"]
