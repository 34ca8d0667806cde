"""The agent's status file, its log and its lock."""

import io
import json

import pytest

from fedhe.client.log_book import MAX_LINE_CHARACTERS, LogBook
from fedhe.client.status import JobStatus, Status, is_locked, only_agent, read_status
from fedhe.errors import StateError


def status_in(folder, clock):
    return Status(folder / "status.json", "A", "project", "host:1", clock)


def test_the_status_tells_connection_and_jobs(tmp_path):
    now = [100.0]
    status = status_in(tmp_path, lambda: now[0])
    assert status.connection_is("waiting", "server away", 107.0)
    status.jobs["j"] = JobStatus("j", activity="training", fraction=0.5)
    status.publish()
    with only_agent(tmp_path):
        state = read_status(tmp_path)
    assert state is not None
    assert (state["connection"], state["message"], state["next_try_at"], state["since"]) == (
        "waiting", "server away", 107.0, 100.0,
    )  # fmt: skip
    assert state["running"]
    assert state["jobs"][0]["fraction"] == 0.5


def test_progress_is_written_a_few_times_a_second_and_changes_at_once(tmp_path):
    now = [100.0]
    status = status_in(tmp_path, lambda: now[0])
    job = status.jobs["j"] = JobStatus("j")
    status.publish()
    job.fraction = 0.1
    now[0] += 0.1
    status.publish(force=False)
    assert json.loads((tmp_path / "status.json").read_text())["jobs"][0]["fraction"] == 0.0
    status.connection_is("connected")
    assert json.loads((tmp_path / "status.json").read_text())["jobs"][0]["fraction"] == 0.1


def test_a_stopped_agent_shows_as_stopped_whatever_it_wrote_last(tmp_path):
    assert read_status(tmp_path) is None
    status_in(tmp_path, lambda: 1.0).connection_is("connected")
    state = read_status(tmp_path)
    assert state is not None
    assert (state["running"], state["connection"]) == (False, "stopped")


def test_a_damaged_status_file_is_one_line(tmp_path):
    (tmp_path / "status.json").write_text("{")
    with pytest.raises(StateError, match="not a status file"):
        read_status(tmp_path)


def test_two_agents_for_one_site_are_refused(tmp_path):
    with only_agent(tmp_path):
        assert is_locked(tmp_path)
        with pytest.raises(StateError, match="runs already"), only_agent(tmp_path):
            pass
    assert not is_locked(tmp_path)


def test_lines_about_jobs_are_queued_until_they_were_sent(tmp_path):
    log = LogBook(tmp_path / "logs", stream=io.StringIO(), clock=lambda: 1.0)
    log.write("info", "about nobody")
    log.write("info", "one", "j")
    log.write("debug", "not for admins", "j")
    log.write("warning", "two", "j")
    with pytest.raises(ConnectionError), log.pending("j", 10):
        raise ConnectionError
    with log.pending("j", 1) as lines:
        assert [line.message for line in lines] == ["one"]
    with log.pending("j", 10) as lines:
        assert [(line.level, line.message) for line in lines] == [("warning", "two")]
    assert log.jobs_with_lines() == set()


def test_a_line_is_one_line_and_cannot_steer_a_terminal(tmp_path):
    stream = io.StringIO()
    log = LogBook(tmp_path / "logs", stream=stream, clock=lambda: 1.0)
    log.write("error", "a\nb\x1b[31m " + "x" * 5000)
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()
    record = json.loads((tmp_path / "logs" / "agent.log").read_text())
    assert len(record["message"]) == MAX_LINE_CHARACTERS


def test_a_log_folder_that_cannot_be_written_costs_lines_and_is_said_once(tmp_path):
    (tmp_path / "logs").write_text("a file where the folder should be")
    stream = io.StringIO()
    log = LogBook(tmp_path / "logs", as_json=True, stream=stream)
    log.write("info", "one")
    log.write("info", "two")
    assert stream.getvalue().count("lines are missing") == 1
    assert stream.getvalue().count('"message"') == 2
