"""Listings: a table for people, JSON for programs, and nothing in a cell that is not shown as it is."""

import json
import time

import pytest

from fedhe.cli.output import local_time, print_json, print_listing, print_table

ROWS = [{"job": "a1", "phase": "train", "extra": 1}, {"job": "b2", "phase": None, "extra": 2}]


@pytest.fixture
def berlin(monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_a_listing_is_a_table_of_the_named_columns(capsys):
    print_listing("jobs", ROWS, ["job", "phase"], as_json=False)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["jobs"]
    assert lines[1] == ["job", "phase"]
    assert lines[2] == ["a1", "train"]
    assert lines[3][0] == "b2"
    assert lines[3][1] in {"-", "–"}  # noqa: RUF001  # either dash says: nothing
    assert len(lines) == 4


def test_the_same_listing_as_json_has_all_keys(capsys):
    print_listing("jobs", ROWS, ["job"], as_json=True)
    assert json.loads(capsys.readouterr().out) == ROWS


def test_an_empty_listing_says_so_and_is_an_empty_list_as_json(capsys):
    print_listing("jobs", [], ["job"], as_json=False)
    assert capsys.readouterr().out.strip() == "jobs: none"
    print_listing("jobs", [], ["job"], as_json=True)
    assert json.loads(capsys.readouterr().out) == []


def test_underscores_of_keys_become_spaces_in_the_head(capsys):
    print_listing("sites", [{"last_seen": "never"}], ["last_seen"], as_json=False)
    assert "last seen" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["[/x]", "[red]x[/red]", "[bold", "a[0]"])
def test_brackets_in_a_cell_or_title_are_shown_as_they_are(capsys, text):
    print_table(text, ["what"], [[text]])
    assert capsys.readouterr().out.count(text) == 2


def test_a_row_in_a_pipe_is_one_line_however_long(capsys):
    print_table("jobs", ["id", "message"], [["a" * 100, "b" * 100]])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[2:]] == [["a" * 100, "b" * 100]]


def test_a_title_longer_than_its_table_is_one_line(capsys):
    print_table("server fl.example.org:8443", ["", ""], [["a", 1]])
    assert capsys.readouterr().out.splitlines()[0] == "server fl.example.org:8443"


def test_json_writes_what_it_does_not_know_as_text(capsys):
    print_json({"path": __import__("pathlib").Path("/x")})
    assert json.loads(capsys.readouterr().out) == {"path": "/x"}


def test_times_are_local_with_their_offset(berlin):
    assert local_time(1_700_000_000.4) == "2023-11-14 23:13:20+01:00"


@pytest.mark.parametrize("nothing", [0, 0.0, None])
def test_no_time_is_none(nothing):
    assert local_time(nothing) is None
