"""Approving jobs by their hash."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhe.client.approvals import (
    Approval,
    code_files,
    decide,
    describe_change,
    last_approved,
    permission,
    printable,
    read_approvals,
)
from fedhe.config.policy import SitePolicy
from fedhe.errors import PolicyError, StateError

CODE = {"config/config_train.json": b"{}", "BYOC/net.py": b"x = 1\n"}
PLAIN = {"config/config_train.json": b"{}", "config/config_fed.yml": b"rounds: 2\n"}
YES = Approval("aa", "approved", "job", "me", 1.0)
NO = Approval("aa", "rejected", "job", "me", 1.0, "reads other folders")


@pytest.mark.parametrize(
    ("job_code", "approval", "files", "answer"),
    [
        ("approve", None, CODE, "waiting"),
        ("approve", YES, CODE, "granted"),
        ("allow", None, CODE, "granted"),
        ("deny", None, PLAIN, "waiting"),
        ("deny", YES, PLAIN, "granted"),
    ],
)
def test_policy_and_approval_decide_together(job_code, approval, files, answer):
    assert permission(SitePolicy(job_code=job_code), approval, files) == answer


@pytest.mark.parametrize(
    ("job_code", "approval", "said"),
    [
        ("deny", YES, "no job that brings code"),
        ("approve", NO, "rejected at this site: reads other folders"),
        ("allow", NO, "rejected"),
    ],
)
def test_a_refusal_says_why_and_wins_over_everything(job_code, approval, said):
    with pytest.raises(PolicyError, match=said):
        permission(SitePolicy(job_code=job_code), approval, CODE)


def test_whatever_is_not_known_as_data_counts_as_code():
    files = dict.fromkeys(["a.py", "b.so", "c.sh", "models/d.pt", "e", "f.JSON", "g.yml", "h.safetensors"], b"")
    assert code_files(files) == ["a.py", "b.so", "c.sh", "e", "models/d.pt"]


def test_decisions_are_kept_and_the_last_one_counts(tmp_path):
    decide(tmp_path, "aa", "approved", name="job", now=1.0, archive=b"one")
    decide(tmp_path, "bb", "approved", name="job", now=2.0, archive=b"two")
    decide(tmp_path, "bb", "rejected", name="job", now=3.0, archive=b"two", reason="no")
    approvals = read_approvals(tmp_path)
    assert {digest: entry.decision for digest, entry in approvals.items()} == {"aa": "approved", "bb": "rejected"}
    found = last_approved(tmp_path, "job")
    assert found is not None
    assert (found[0].digest, found[1]) == ("aa", b"one")
    assert last_approved(tmp_path, "another job") is None


def test_a_decision_of_an_account_without_a_name_is_kept_under_its_number(tmp_path, monkeypatch):
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 2**31 - 7)
    assert decide(tmp_path, "aa", "approved", name="job", now=1.0, archive=b"one").who == f"uid {2**31 - 7}"


def test_a_damaged_file_of_approvals_approves_nothing(tmp_path):
    (tmp_path / "approvals.json").write_text('[{"digest": "aa", "decision": "maybe"}]')
    with pytest.raises(StateError, match="not a list of approvals"):
        read_approvals(tmp_path)


def test_the_change_since_the_last_approved_one_is_shown():
    lines = describe_change(
        {"a.py": b"x = 1\ny = 2\n", "gone.py": b"", "same.txt": b"s"},
        {"a.py": b"x = 1\ny = 3\n", "new.bin": b"\xff\x00", "same.txt": b"s"},
    )
    assert "~ changed  a.py (12 -> 12 bytes)" in lines
    assert "- removed  gone.py" in lines
    assert "+ added    new.bin (2 bytes)" in lines
    assert "-y = 2" in lines
    assert "+y = 3" in lines
    assert "  new.bin: binary, not shown" in lines
    assert not any("same.txt" in line for line in lines)


@given(st.dictionaries(st.text(min_size=1, max_size=9), st.binary(max_size=40), max_size=4))
def test_a_job_cannot_steer_the_terminal_of_who_reviews_it(files):
    for line in describe_change({}, files):
        assert line == printable(line)
        assert "\x1b" not in line
