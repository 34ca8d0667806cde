"""`fedhe-admin jobs pause|resume|change` and `fedhe-admin drain`."""

import pytest

from fedhe.cli import admin_steering


def test_a_paused_job_is_seen_in_every_listing(fedhe_admin, as_json, script, trained):
    code, out, err = fedhe_admin("jobs", "pause", "tiny", "--reason", "scanner upgrade")
    assert (code, err) == (0, "")
    assert out == f"job {trained.job_id} is paused\nnext: fedhe-admin jobs resume {trained.job_id}\n"
    (listed,) = as_json("jobs", "list")
    shown = as_json("jobs", "show", "tiny")
    for found in (listed, shown):
        assert found["paused_at"] > 0
        assert found["pause_reason"] == "scanner upgrade"
    for command in ("list", "show"):
        assert "finished, paused" in fedhe_admin("jobs", command, *(["tiny"] if command == "show" else []))[1]
    assert "stands still" in fedhe_admin("jobs", "show", "tiny")[1]
    code, out, _ = fedhe_admin("jobs", "resume", "tiny")
    assert (code, out) == (0, f"job {trained.job_id} goes on\n")
    assert as_json("jobs", "show", "tiny")["paused_at"] is None


def test_a_pause_after_the_round_says_so(fedhe_admin, as_json, script, trained):
    code, out, _ = fedhe_admin("jobs", "pause", "tiny", "--after-round")
    assert code == 0
    assert "pauses when its next round begins" in out
    assert as_json("jobs", "show", "tiny")["pause_due"] is True
    assert "pauses after this round" in fedhe_admin("jobs", "list")[1]


def test_change_sends_what_was_given_and_nothing_else(fedhe_admin, script, trained):
    code, out, _ = fedhe_admin("jobs", "change", "tiny", "--rounds", "8", "--upload-deadline", "12h")
    assert code == 0
    assert out == f"job {trained.job_id}: rounds 8, upload deadline 12 h\n"
    request = script.calls[-1][1]
    assert (request.rounds, request.upload_deadline) == (8, 43200.0)
    assert not request.HasField("train_deadline")
    assert not request.HasField("apply_deadline")
    assert fedhe_admin("jobs", "change", "tiny", "--apply-deadline", "90")[0] == 0
    assert script.calls[-1][1].apply_deadline == 90.0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "nothing to change"),
        (["--train-deadline", "soon"], "--train-deadline: expected a duration such as 90s, 30m, 2h or 1d, got 'soon'"),
        (["--apply-deadline", "900d"], "--apply-deadline: expected a duration from 1s to 366d"),
    ],
)
def test_a_mistake_is_found_before_the_server_is_asked(fedhe_admin, script, trained, options, expected):
    code, _, err = fedhe_admin("jobs", "change", "tiny", *options)
    assert code == 2
    assert err.count("\n") == 1
    assert expected in err
    assert all(name != "ChangeJob" for name, _ in script.calls)


@pytest.mark.parametrize(
    "command",
    [
        ("jobs", "pause", "tiny"),
        ("jobs", "resume", "tiny"),
        ("jobs", "change", "tiny", "--rounds", "1"),
        ("drain",),
    ],
)
def test_an_observer_steers_nothing(fedhe_admin, script, trained, command):
    code, _, err = fedhe_admin(*command, name="watcher")
    assert code == 3
    assert err.count("\n") == 1


def test_drain_tells_whether_the_server_may_be_stopped(fedhe_admin, as_json, script):
    script.busy = [1]
    code, out, _ = fedhe_admin("drain")
    assert code == 0
    assert "1 job still in a round" in out
    assert as_json("drain") == {"draining": True, "jobs_busy": 0, "may_be_stopped": True}
    assert as_json("status")["draining"] is True
    code, out, _ = fedhe_admin("drain", "--off")
    assert code == 0
    assert "is not drained; its jobs go on" in out
    assert script.draining is False


def test_drain_waits_where_it_is_asked_to(as_json, script, monkeypatch):
    slept = []
    monkeypatch.setattr(admin_steering.time, "sleep", slept.append)
    script.busy = [2, 1, 0]
    assert as_json("drain", "--wait")["may_be_stopped"] is True
    assert len(slept) == 2
