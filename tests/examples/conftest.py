"""The examples are scripts, not a package: their folder is put on the path, as `python examples/...` does."""

import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))


@pytest.fixture(scope="session")
def examples():
    return EXAMPLES


@pytest.fixture(scope="session")
def template():
    pytest.importorskip("nilearn")
    import brain_tissue_data

    return brain_tissue_data.load_template()


@pytest.fixture(scope="session")
def brain_data(tmp_path_factory, template):
    """One folder per hospital, as the demo makes them."""
    import brain_tissue_data

    out = tmp_path_factory.mktemp("brain")
    brain_tissue_data.make_data(out, ["hospitalA", "hospitalB", "hospitalC"], template=template)
    return out


@pytest.fixture(scope="session")
def decathlon_folder(tmp_path_factory):
    """Fifteen small volumes in the Decathlon's layout: bright ellipsoids of two halves on noise."""
    import json

    import nibabel

    folder = tmp_path_factory.mktemp("Task04_Hippocampus")
    listed = []
    for number in range(15):
        rng = np.random.default_rng(number)
        shape = tuple(rng.integers(30, 42, size=3))
        x, y, z = np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij")
        inside = x**2 * 4 + y**2 * 2 + z**2 * 4 < 0.8
        label = np.where(inside, np.where(y > 0, 1, 2), 0).astype(np.uint8)
        image = (rng.normal(100, 20, shape) + 150 * inside + 50 * (label == 1)).astype(np.float32)
        case = {}
        for key, voxels, where in (("image", image, "imagesTr"), ("label", label, "labelsTr")):
            (folder / where).mkdir(exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), folder / where / f"case_{number:03d}.nii.gz")
            case[key] = f"./{where}/case_{number:03d}.nii.gz"
        listed.append(case)
    (folder / "dataset.json").write_text(json.dumps({"name": "made up", "training": listed}))
    return folder


@pytest.fixture
def train_locally(tmp_path):
    """Runs `fedhe-train --json` on a job as a user does; returns its parsed result."""
    import json
    import os
    import subprocess

    def train(job, *settings):
        program = Path(sys.executable).parent / "fedhe-train"
        sets = [part for setting in settings for part in ("--set", setting)]
        done = subprocess.run(
            [program, "-m", job, "-o", tmp_path / "models", "--json", *sets],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout)

    return train
