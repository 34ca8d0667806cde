"""Three hospitals, a server and an admin train one model under encryption: everything real."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedhe.he.params import DEFAULT_PARAMS


@pytest.fixture(scope="module")
def finished(federation):
    """The federation after a job of two rounds, and the job's id; a server restart falls into the first round."""
    federation.start_server()
    job_id = federation.submit()
    for site in federation.sites:
        federation.start_site(site)
    federation.wait_for_phase(job_id, "train", "upload", "sum", "apply")
    assert federation.stop("server") == 0
    federation.start_server()
    federation.wait_for_phase(job_id, "finished")
    return federation, job_id


def record(federation, site, job_id, round_):
    folder = federation.site_folder(site) / "jobs" / job_id / "record" / f"round-{round_}"
    arrays = {path.stem: np.load(path) for path in folder.glob("*.npy")}
    return arrays, json.loads((folder / "record.json").read_text())


def test_every_round_counts_all_sites_and_ends_with_equal_fingerprints(finished):
    federation, job_id = finished
    rounds = federation.ask("rounds", "list", job_id)["rounds"]
    assert [entry["round"] for entry in rounds] == [1, 2]
    for entry in rounds:
        assert sorted(entry["contributors"]) == list(federation.sites)
        assert len(set(entry["fingerprints"].values())) == 1
        assert len(entry["fingerprints"]) == len(federation.sites)
        assert all(size > 0 for size in [*entry["bytes_up"].values(), *entry["bytes_down"].values()])


def test_the_decrypted_sums_equal_the_plaintext_fixed_point_sums(finished):
    federation, job_id = finished
    for round_ in (1, 2):
        records = {site: record(federation, site, job_id, round_) for site in federation.sites}
        expected = sum(arrays["fields"] for arrays, _ in records.values())
        assert np.abs(expected).max() > 1000, "an empty update would be exact too"
        for arrays, _ in records.values():
            np.testing.assert_array_equal(arrays["sum_fields"], expected)
        weights = {site: described["weight"] for site, (_, described) in records.items()}
        assert weights == pytest.approx({"hospitalA": 0.3, "hospitalB": 0.5, "hospitalC": 0.2})
        steps = next(iter(records.values()))[0]["steps"]
        average = sum(weights[site] * arrays["change"].astype(np.float64) for site, (arrays, _) in records.items())
        assert np.abs(average).max() > 100 * steps.max()


def test_all_sites_and_the_downloaded_checkpoint_hold_the_same_model(finished, tmp_path):
    federation, job_id = finished
    out = tmp_path / "model.safetensors"
    federation.admin("model", "download", job_id, "--out", out)
    model = load_file(out)
    assert any(name.endswith("running_mean") for name in model)
    assert all("num_batches_tracked" not in name for name in model)
    for site in federation.sites:
        folder = federation.site_folder(site) / "jobs" / job_id
        mine = load_file(next(folder.glob("**/model-2.safetensors")))
        for name, tensor in model.items():
            np.testing.assert_array_equal(mine[name], tensor)


def test_metrics_open_for_the_admin_with_the_key_and_stay_sealed_for_the_observer(finished):
    federation, job_id = finished
    opened = federation.ask("rounds", "list", job_id)
    assert set(opened["baseline"]) == set(federation.sites)
    assert set(opened["rounds"][-1]["metric"]) == set(federation.sites)
    sealed = federation.ask("rounds", "list", job_id, who="watcher")
    assert sealed["baseline"] is None
    assert sealed["rounds"][-1]["metric"] is None


def test_the_parameters_are_the_documented_ones():
    described = DEFAULT_PARAMS.to_dict()
    assert described["scheme"] == "CKKS"
    assert described["security_bits"] >= 128


def test_an_observer_may_look_but_not_change(finished):
    federation, job_id = finished
    refused = federation.admin("jobs", "abort", job_id, "--yes", who="watcher", check=False)
    assert refused.returncode == 3
    assert "lead" in refused.stderr
    assert federation.job(job_id)["phase"] == "finished"


def test_a_second_agent_for_a_site_and_a_second_server_are_refused(finished):
    federation, _ = finished
    again = federation.run(
        "fedhe-client", "start", "--site", "hospitalA", "--home", federation.home("hospitalA"), check=False
    )
    assert again.returncode != 0
    assert "runs already" in again.stderr
    server = federation.run("fedhe-server", "start", "--home", federation.home("server"), check=False)
    assert server.returncode != 0
    assert "a server runs already" in server.stderr


def test_a_job_whose_component_does_not_exist_fails_with_its_place_and_the_nearest_name(finished, tmp_path):
    federation, _ = finished
    job = copy_of_tiny_job(tmp_path)
    text = (job / "config" / "config_train.json").read_text()
    (job / "config" / "config_train.json").write_text(text.replace('"DiceCELoss"', '"DiceCELos"'))
    job_id = federation.submit(job)
    federation.wait(lambda: federation.job(job_id)["phase"] == "failed", "the job to fail")
    message = federation.job(job_id)["message"]
    assert "DiceCELos" in message
    assert "DiceCELoss" in message


def test_nan_in_an_update_never_leaves_the_site(finished, tmp_path):
    federation, _ = finished
    job = copy_of_tiny_job(tmp_path)
    text = (job / "config" / "config_train.json").read_text()
    (job / "config" / "config_train.json").write_text(text.replace('"lr": 0.02', '"lr": 1e37'))
    job_id = federation.submit(job)
    federation.wait(lambda: federation.job(job_id)["phase"] == "failed", "the job to fail")
    message = federation.job(job_id)["message"].lower()
    assert "finite" in message or "nan" in message


def copy_of_tiny_job(folder):
    return shutil.copytree(Path(__file__).parent / "tiny_job", folder / "job")


def test_the_server_imports_neither_torch_nor_a_decryptor():
    code = (
        "import sys, fedhe.cli.server, fedhe.server.start\n"
        "bad = [name for name in sys.modules if name.split('.')[0] in ('torch', 'monai', 'ignite') or name in "
        "('fedhe.he.keys', 'fedhe.he.seal_engine', 'fedhe.trust.sealed', 'fedhe.trust.site_keys')"
        " or name.startswith(('fedhe.training', 'fedhe.client'))]\n"
        "print(bad)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert done.stdout.strip() == "[]"
