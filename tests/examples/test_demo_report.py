"""The demo's report: it finds a sum that is not exact, and says what the rounds did."""

import json

import numpy as np
import pytest
from demo_report import SiteRecord, compare, faults, make_report
from hypothesis import given
from hypothesis import strategies as st

from fedhe.model.layout import Layout, TensorSpec

SITES = ("hospitalA", "hospitalB", "hospitalC")
LAYOUT = Layout(
    (
        TensorSpec("weight", (3, 2), "float32", statistic=False, field_bits=16),
        TensorSpec("running_mean", (2,), "float32", statistic=True, field_bits=24),
    )
)
WEIGHTS = (0.5, 0.25, 0.25)


def honest_round(seed):
    """What three sites would have kept of one round, made without any encryption."""
    rng = np.random.default_rng(seed)
    steps = np.array([0.01, 0.001])
    step = np.repeat(steps, [6, 2])
    changes = [rng.normal(size=8).astype(np.float32) for _ in SITES]
    fields = [
        np.floor(change.astype(np.float64) * weight / step + rng.random(8)).astype(np.int64)
        for change, weight in zip(changes, WEIGHTS, strict=True)
    ]
    total = np.sum(fields, axis=0)
    return [
        SiteRecord(own, total.copy(), change, steps, weight)
        for own, change, weight in zip(fields, changes, WEIGHTS, strict=True)
    ]


@given(seed=st.integers(0, 10_000))
def test_honest_sums_are_exact_and_within_one_step_per_site_of_float_averaging(seed):
    found = compare(honest_round(seed), LAYOUT)
    assert found.exact
    assert found.max_error_in_steps < len(SITES)
    assert found.max_error <= found.max_error_in_steps * 0.01 * (1 + 1e-9)


@given(site=st.integers(0, 2), value=st.integers(0, 7), by=st.sampled_from([-1, 1, 1 << 20]))
def test_one_altered_value_at_one_site_is_found(site, value, by):
    records = honest_round(0)
    records[site].sum_fields[value] += by
    assert not compare(records, LAYOUT).exact


def test_another_grid_at_one_site_is_found():
    records = honest_round(0)
    records[1].steps.setflags(write=True)
    changed = SiteRecord(**{**vars(records[1]), "steps": records[1].steps * 2})
    assert not compare([records[0], changed, records[2]], LAYOUT).exact


@pytest.fixture
def kept(tmp_path):
    """Job folders of three sites after two rounds, and what the admin's commands say of them."""
    folders = {site: tmp_path / site for site in SITES}
    for site in SITES:
        folders[site].mkdir()
        (folders[site] / "layout.json").write_text(LAYOUT.to_json())
    for number in (1, 2):
        for site, record in zip(SITES, honest_round(number), strict=True):
            folder = folders[site] / "record" / f"round-{number}"
            folder.mkdir(parents=True)
            for name in ("fields", "sum_fields", "change", "steps"):
                np.save(folder / f"{name}.npy", getattr(record, name))
            (folder / "record.json").write_text(json.dumps({"weight": record.weight}))
    rounds = {
        "main_metric": "val_mean_dice",
        "baseline": dict.fromkeys(SITES, 0.1),
        "rounds": [
            {
                "round": number,
                "attempts": 1,
                "seconds": 3.5,
                "contributors": list(SITES),
                "bytes_up": dict.fromkeys(SITES, 20),
                "bytes_down": dict.fromkeys(SITES, 40),
                "metric": {"hospitalA": 0.3 * number, "hospitalB": 0.3 * number, "hospitalC": 0.6 * number},
                "samples": dict(zip(SITES, (2, 1, 1), strict=True)),
                "fingerprints": dict.fromkeys(SITES, "ab" * 32),
            }
            for number in (1, 2)
        ],
    }
    return folders, rounds


HE = {
    "scheme": "CKKS",
    "poly_modulus_degree": 4096,
    "coeff_modulus_bits": [30, 30],
    "scale_bits": 12,
    "field_bits": 16,
    "statistics_bits": 24,
    "security_bits": 192,
}


def report_of(folders, rounds):
    return make_report(
        job="brain_tissue", job_folders=folders, he=HE, rounds=rounds, server={"peak_rss_bytes": 1 << 27}
    )


def test_the_report_has_every_key_that_is_promised(kept):
    report = report_of(*kept)
    assert {
        "job", "sites", "parameters", "he", "rounds", "exact", "max_error_vs_float", "fingerprints", "final_metric",
        "baseline_metric", "server_peak_rss_bytes",
    } <= set(report)  # fmt: skip
    assert set(report["he"]) == set(HE) - {"statistics_bits"}
    assert set(report["rounds"][0]) == {
        "round", "seconds", "contributors", "bytes_up", "bytes_down", "metric", "metric_mean",
    }  # fmt: skip
    assert json.loads(json.dumps(report)) == report


def test_the_report_counts_values_and_takes_the_mean_over_sites(kept):
    report = report_of(*kept)
    assert report["parameters"] == 8
    assert report["bytes_per_value"] == {"up": 2.5, "down": 5.0}
    assert report["baseline_metric"] == pytest.approx(0.1)
    assert report["final_metric"] == pytest.approx(0.8)
    assert report["exact"]
    assert faults(report, 2) == []


def test_a_record_that_does_not_add_up_is_a_fault(kept):
    folders, rounds = kept
    file = folders["hospitalB"] / "record" / "round-2" / "sum_fields.npy"
    np.save(file, np.load(file) + 1)
    report = report_of(folders, rounds)
    assert not report["exact"]
    assert faults(report, 2) == ["a decrypted sum differs from the sum of what the sites encrypted"]


def test_different_models_a_falling_metric_and_a_missing_round_are_faults(kept):
    folders, rounds = kept
    rounds["rounds"][-1]["fingerprints"]["hospitalA"] = "cd" * 32
    rounds["rounds"][-1]["metric"] = dict.fromkeys(SITES, 0.05)
    found = faults(report_of(folders, rounds), 3)
    assert len(found) == 3
    assert "expected 3 rounds, got 2" in found[0]
    assert "one fingerprint" in found[1]
    assert "did not rise: 0.100 to 0.050" in found[2]


def test_the_table_and_the_curves_show_the_report(kept, capsys, tmp_path):
    import demo_table
    from demo_figures import draw_curves

    report = {**report_of(*kept), "seconds": 12.0}
    demo_table.show(report, tmp_path)
    shown = capsys.readouterr().out
    assert "0.100 before training, 0.800 now" in shown
    assert "equal the plaintext sums" in shown
    draw_curves(report, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_curves_are_drawn_where_the_metric_is_not_known(kept, tmp_path):
    from demo_figures import draw_curves

    folders, rounds = kept
    rounds["baseline"] = None
    for entry in rounds["rounds"]:
        entry["metric"] = None
    draw_curves(report_of(folders, rounds), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 0
