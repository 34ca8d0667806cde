"""`fedhe-admin rounds list`: which model a metric belongs to, and who may see it."""

import pytest

from fedhe.cli.admin_summary import open_notes, summarise
from fedhe.trust.sealed import GroupKey

NOW = 1_700_001_000.0


def test_the_metric_of_a_round_is_of_the_model_after_it(as_json, trained):
    """Round 1's model is measured by the READY notes of round 2, the last round's by the Applied notes."""
    summary = as_json("rounds", "list", "tiny")
    assert summary["job"] == trained.job_id
    assert summary["main_metric"] == "val_mean_dice"
    assert summary["baseline"] == {"hospitalA": 0.5, "hospitalB": 0.51, "hospitalC": 0.52}
    first, last = summary["rounds"]
    assert first["metric"] == pytest.approx({"hospitalA": 0.6, "hospitalB": 0.61, "hospitalC": 0.62})
    assert last["metric"] == pytest.approx({"hospitalA": 0.7, "hospitalB": 0.71, "hospitalC": 0.72})
    assert last["metrics"]["hospitalA"] == {"val_mean_dice": 0.7, "val_loss": 0.25}


def test_a_round_says_what_it_cost_and_that_all_sites_agree(as_json, trained):
    _, last = as_json("rounds", "list", "tiny")["rounds"]
    assert last["seconds"] == 42.5
    assert last["attempts"] == 2
    assert last["contributors"] == ["hospitalA", "hospitalB", "hospitalC"]
    assert last["bytes_up"]["hospitalB"] == 750_000
    assert last["bytes_down"]["hospitalB"] == 1_500_000
    assert last["samples"] == {"hospitalA": 10, "hospitalB": 11, "hospitalC": 12}
    assert set(last["fingerprints"].values()) == {trained.fingerprint.hex()}
    assert last["context"] == "02" * 32
    assert last["sum_digest"] == "12" * 32


@pytest.mark.parametrize("name", ["deputy", "watcher"])
def test_without_the_group_key_metrics_stay_sealed(as_json, fedhe_admin, trained, name):
    summary = as_json("rounds", "list", "tiny", name=name)
    assert summary["sealed"] is True
    assert summary["main_metric"] is None
    assert summary["baseline"] is None
    assert all(entry["metric"] is entry["metrics"] is entry["samples"] is None for entry in summary["rounds"])
    assert summary["rounds"][0]["bytes_up"] == dict.fromkeys(["hospitalA", "hospitalB", "hospitalC"], 750_000)
    assert "sealed" in fedhe_admin("rounds", "list", "tiny", name=name)[1]


def test_the_table_for_people(fedhe_admin, trained):
    code, out, _ = fedhe_admin("rounds", "list", "tiny")
    assert code == 0
    assert "val_mean_dice" in out
    assert "2.25 MB" in out
    assert f"equal 3/3 {trained.fingerprint.hex()[:8]}" in out
    assert "0.71" in out


def test_models_that_differ_are_told_loudly(fedhe_admin, script, trained):
    script.rounds[1].contributions[0].model_fingerprint = b"\x01" * 32
    assert "DIFFERENT (2 models)" in fedhe_admin("rounds", "list", "tiny")[1]


def test_a_note_that_was_altered_is_left_out_with_a_warning(fedhe_admin, script, trained):
    script.rounds[1].contributions[2].applied_note = bytes(100)
    code, _, err = fedhe_admin("rounds", "list", "tiny")
    assert code == 0
    assert err.count("\n") == 1
    assert err.startswith("warning: ")
    assert "hospitalC, round 2" in err


def test_a_note_of_another_site_does_not_open_under_this_one(script, trained, group_key):
    parts = script.rounds[0].contributions
    parts[0].ready.CopyFrom(parts[1].ready)
    notes = open_notes("trial", trained.job_id, script.rounds, group_key)
    assert (1, "hospitalA") not in notes.ready
    assert len(notes.warnings) == 1


def test_a_note_of_another_job_or_project_does_not_open(script, trained, group_key):
    for project, job_id, key in [
        ("other", trained.job_id, group_key),
        ("trial", "ffff0000", group_key),
        ("trial", trained.job_id, GroupKey.generate()),
    ]:
        notes = open_notes(project, job_id, script.rounds, key)
        assert notes.ready == notes.applied == {}
        assert len(notes.warnings) == 6


def test_a_garbled_statement_is_a_warning_and_no_crash(script, trained, group_key):
    script.rounds[0].contributions[0].ready.body = b"\xff\x00garbage"
    assert len(open_notes("trial", trained.job_id, script.rounds, group_key).warnings) == 1


def test_a_round_under_way_has_no_end_and_no_metric_yet(script, trained, group_key):
    running = script.rounds[1]
    running.ended_at = 0
    for part in running.contributions:
        part.applied_note = b""
        part.model_fingerprint = b""
    notes = open_notes("trial", trained.job_id, script.rounds, group_key)
    summary = summarise(trained.job_id, script.rounds, notes, sealed=False, now=NOW)
    assert summary["rounds"][1]["ended_at"] is None
    assert summary["rounds"][1]["seconds"] == NOW - running.started_at
    assert summary["rounds"][1]["metric"] is None
    assert summary["rounds"][1]["fingerprints"] == {}
    assert summary["rounds"][0]["metric"] is not None


def test_a_job_without_rounds_has_an_empty_list(as_json, fedhe_admin, script, trained):
    script.rounds.clear()
    summary = as_json("rounds", "list", "tiny")
    assert (summary["rounds"], summary["baseline"], summary["main_metric"]) == ([], None, None)
    assert "none" in fedhe_admin("rounds", "list", "tiny")[1]


def test_a_job_that_does_not_exist(fedhe_admin, script):
    code, _, err = fedhe_admin("rounds", "list", "tiny")
    assert code == 6
    assert err.count("\n") == 1
