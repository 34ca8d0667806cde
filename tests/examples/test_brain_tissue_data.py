"""The brain tissue data: what each hospital gets, and that it is honest."""

import json
import subprocess
import sys

import brain_tissue_data as data
import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


def cases_of(folder):
    listed = json.loads((folder / "dataset.json").read_text())
    return {key: listed[key] for key in ("training", "validation")}


@given(sites=st.integers(1, data.MAX_SITES))
def test_no_voxel_belongs_to_two_blocks_and_every_slab_is_dealt_out(sites):
    taken = np.zeros((197, 233, 189), dtype=np.uint8)
    for index in range(sites):
        for block in data.blocks_of_site(index, sites):
            part = block.cut(taken)
            assert not part.any()
            part += 1
    whole = taken[slice(*data.BRAIN_X), slice(*data.BRAIN_Y), slice(*data.BRAIN_Z)]
    assert whole.all()
    assert taken.sum() == whole.size


@given(half_range=st.floats(0.01, 0.6), seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_a_bias_field_is_positive_smooth_and_spans_its_range(half_range, seed):
    field = data.bias_field((40, 16, 20), half_range, np.random.default_rng(seed))
    assert field.min() == pytest.approx(1 - half_range, abs=1e-4)
    assert field.max() == pytest.approx(1 + half_range, abs=1e-4)
    assert np.abs(np.diff(field, axis=0)).max() < 0.3


def test_every_site_trains_and_validates_on_different_files_with_all_labels(brain_data):
    for site in ("hospitalA", "hospitalB", "hospitalC"):
        cases = cases_of(brain_data / site)
        names = {key: {case["image"] for case in listed} for key, listed in cases.items()}
        assert len(names["training"]) >= 4
        assert len(names["validation"]) >= 2
        assert not names["training"] & names["validation"]
        for case in cases["training"] + cases["validation"]:
            labels = np.asarray(nibabel.load(brain_data / site / case["label"]).dataobj)
            assert set(np.unique(labels)) == {0, 1, 2}


def test_a_block_keeps_its_place_in_mni_space(brain_data, template):
    """Voxel by voxel, labels of a block equal the template's at the same millimetres."""
    file = brain_data / "hospitalB" / cases_of(brain_data / "hospitalB")["validation"][0]["label"]
    block = nibabel.load(file)
    to_template = np.linalg.inv(template.affine) @ block.affine
    corner = np.rint(to_template[:3, 3]).astype(int)
    there = template.labels[tuple(slice(c, c + n) for c, n in zip(corner, block.shape, strict=True))]
    assert np.array_equal(np.asarray(block.dataobj), there)


def test_the_same_seed_gives_the_same_voxels_and_another_gives_others(brain_data, template, tmp_path):
    names = ["hospitalA", "hospitalB", "hospitalC"]

    def first(root):
        case = cases_of(root / "hospitalC")["training"][0]["image"]
        return np.asarray(nibabel.load(root / "hospitalC" / case).dataobj)

    data.make_data(tmp_path / "again", names, template=template)
    data.write_site(tmp_path / "other" / "hospitalC", 2, 3, template, seed=5)
    assert np.array_equal(first(tmp_path / "again"), first(brain_data))
    assert not np.array_equal(first(tmp_path / "other"), first(brain_data))


def test_scanners_render_the_same_tissue_differently_but_never_below_zero(template):
    tissue = data.Block((60, 100), (100, 116), (80, 120)).cut(template.t1)
    looks = [data.scan(tissue, scanner, np.random.default_rng(1)) for scanner in data.SCANNERS]
    assert all(look.min() >= 0 for look in looks)
    means = [look.mean() for look in looks]
    assert len({round(float(mean)) for mean in means}) == len(looks)


@pytest.mark.parametrize("sites", [[], ["a", "a"], ["a", "b", "c", "d", "e", "f"]])
def test_illegal_site_lists_are_refused_before_anything_is_written(sites, tmp_path):
    with pytest.raises(ValueError, match="expected 1 to 5 different site names"):
        data.make_data(tmp_path / "out", sites)
    assert not (tmp_path / "out").exists()


def test_a_missing_template_is_told_in_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="mni_icbm152_t1"):
        data.load_template(tmp_path)


def test_the_command_says_what_it_wrote_and_fails_in_one_line(examples, tmp_path):
    def run(*arguments):
        script = examples / "brain_tissue_data.py"
        return subprocess.run(
            [sys.executable, script, tmp_path / "data", *arguments], capture_output=True, text=True, check=False
        )

    done = run("--sites", "north", "south")
    assert done.returncode == 0
    assert "north: " in done.stdout
    failed = run("--sites", "north", "north")
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: expected 1 to 5 different site names")
    assert len(failed.stderr.splitlines()) == 1
