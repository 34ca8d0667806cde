"""`fedhe-admin rounds watch`: redrawn on a terminal, plain lines elsewhere, JSON for programs; outlives the server."""

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading

import pytest
from rich.console import Console

from fedhe.cli.admin_watch import RoundNews, changes, headline, picture
from fedhe.errors import UnavailableError

NOW = 1_700_000_000.0


def drawn(renderable):
    console = Console(width=120, force_terminal=False, file=io.StringIO())
    console.print(renderable)
    return console.file.getvalue()


@pytest.fixture
def run_of_a_job(detail):
    """What the server streams of a job of two rounds."""
    return [
        detail("train", 1),
        detail("train", 1, sites=[("hospitalA", "training", 0.1), ("hospitalB", "training", 0.6)]),
        detail("upload", 1, sites=[("hospitalA", "uploading", 0.3), ("hospitalB", "uploaded", 1.0)]),
        detail("train", 2, 1, message="hospitalC is offline"),
        detail("finished", 2, 2),
    ]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr("fedhe.cli.admin_session.MAX_BACK_OFF_SECONDS", 0.1)


def test_a_picture_shows_headline_bars_and_message(detail):
    now = detail("upload", 2, 1, attempt=2, message="waits", sites=[("hospitalA", "uploading", 0.305)])
    text = drawn(picture(now, NOW, "connection lost"))
    assert "tiny (a1b2c3d4) · round 2 of 2 · upload · attempt 2 · deadline in 1 h" in text
    assert "hospitalA  uploading" in text
    assert "30 %" in text
    assert "waits" in text
    assert "connection lost" in text


def test_a_deadline_that_passed_says_so_and_an_ended_job_has_none(detail):
    assert headline(detail("train"), NOW + 7200).endswith("deadline passed")
    assert headline(detail("finished"), NOW) == "tiny (a1b2c3d4) · round 1 of 2 · finished"


def test_plain_lines_tell_only_what_is_new(detail):
    first = detail("train", sites=[("hospitalA", "training", 0.0), ("hospitalB", "training", 0.0)])
    assert len(list(changes(None, first))) == 3
    assert list(changes(first, first)) == []
    little = detail("train", sites=[("hospitalA", "training", 0.1), ("hospitalB", "training", 0.2)])
    assert list(changes(first, little)) == []
    quarter = detail("train", sites=[("hospitalA", "training", 0.1), ("hospitalB", "training", 0.26)])
    assert list(changes(little, quarter)) == ["  hospitalB: training 26 %"]
    later = detail("upload", sites=[("hospitalA", "training", 0.1), ("hospitalB", "training", 0.26)])
    (line,) = changes(quarter, later)
    assert "upload" in line


def test_text_of_sites_cannot_steer_the_terminal(detail):
    nasty = detail("train", message="\x1b[2J", sites=[("\x1b]0;x\x07", "\x1b[31m", 0.5)])
    assert not re.search(r"[\x00-\x1f]", "".join(changes(None, nasty)))
    assert "\x1b" not in drawn(picture(nasty, NOW, None))


def test_news_of_a_round_are_told_once():
    entry = {
        "round": 1,
        "ended_at": NOW,
        "seconds": 14,
        "contributors": ["a", "b"],
        "bytes_up": {"a": 500_000, "b": 500_000},
        "bytes_down": {"a": 0, "b": 0},
        "metric": None,
    }
    summary = {"main_metric": "dice", "baseline": {"a": 0.25, "b": 0.35}, "rounds": [entry]}
    news = RoundNews()
    assert list(news.lines(summary)) == [
        "before round 1: dice 0.3",
        "round 1 done in 14 s: 2 sites (a, b), 1.00 MB moved",
    ]
    assert list(news.lines(summary)) == []
    entry["metric"] = {"a": 0.5, "b": 0.7}
    assert list(news.lines(summary)) == ["after round 1: dice 0.6"]
    assert list(news.lines(summary)) == []


def test_in_a_pipe_each_change_is_a_plain_line(fedhe_admin, script, trained, run_of_a_job):
    script.watched = run_of_a_job
    code, out, err = fedhe_admin("rounds", "watch", "tiny")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d  ", line) for line in lines)
    assert "\x1b" not in out
    assert any("hospitalB: training 60 %" in line for line in lines)
    assert any("hospitalC is offline" in line for line in lines)
    assert any("after round 2: val_mean_dice 0.71" in line for line in lines)
    assert "round 2 of 2 · finished" in out


def test_each_change_is_one_line_of_json(fedhe_admin, script, trained, run_of_a_job):
    script.watched = list(run_of_a_job)
    code, out, err = fedhe_admin("rounds", "watch", "tiny", "--json")
    assert (code, err) == (0, "")
    seen = [json.loads(line) for line in out.splitlines()]
    assert [entry["phase"] for entry in seen] == ["train", "train", "upload", "train", "finished"]
    assert seen[2]["sites"][1] == {
        "site": "hospitalB",
        "online": True,
        "state": "uploaded",
        "fraction": 1.0,
        "detail": "",
        "model_version": 0,
    }


@pytest.mark.parametrize("phase", ["failed", "aborted"])
def test_a_job_that_does_not_finish_ends_watching_with_an_error(fedhe_admin, script, trained, detail, phase):
    script.watched = [detail("train"), detail(phase, message="hospitalB: no module named BYOC")]
    code, _, err = fedhe_admin("rounds", "watch", "tiny")
    assert code == 6
    assert err == f"error: job a1b2c3d4 is {phase}: hospitalB: no module named BYOC\n"


def test_watching_goes_on_when_the_server_is_away_for_a_while(fedhe_admin, script, trained, run_of_a_job):
    away = UnavailableError("the server restarts")
    script.watched = [run_of_a_job[0], away, away, run_of_a_job[2], away, run_of_a_job[4]]
    code, out, err = fedhe_admin("rounds", "watch", "tiny", "--json")
    assert code == 0
    assert [json.loads(line)["phase"] for line in out.splitlines()] == ["train", "upload", "finished"]
    assert err.count("warning: ") == 3


def test_a_server_that_is_away_when_the_rounds_are_asked_for_is_asked_again(fedhe_admin, script, trained, detail):
    script.failures = [("ListRounds", UnavailableError("the server restarts"))]
    script.watched = [detail("train", 1, 0), detail("train", 1, 0), detail("finished", 2, 2)]
    code, out, _ = fedhe_admin("rounds", "watch", "tiny")
    assert code == 0
    assert out.count("before round 1: val_mean_dice 0.51") == 1


def test_a_note_that_does_not_open_is_told_once(fedhe_admin, script, trained, run_of_a_job):
    script.rounds[1].contributions[2].applied_note = bytes(100)
    script.watched = run_of_a_job
    code, _, err = fedhe_admin("rounds", "watch", "tiny")
    assert code == 0
    assert err.count("warning: note of hospitalC, round 2") == 1


def test_a_stream_that_the_server_ends_too_early_is_taken_up_again(fedhe_admin, script, trained, detail):
    script.watched = [detail("train"), None, None, detail("finished")]
    code, out, _ = fedhe_admin("rounds", "watch", "tiny", "--json")
    assert code == 0
    assert len(out.splitlines()) == 2


def test_a_server_that_is_away_from_the_beginning_is_an_error(fedhe_admin, script, trained):
    script.watched = [UnavailableError("the server restarts")]
    code, _, err = fedhe_admin("rounds", "watch", "tiny")
    assert code == 5
    assert err.count("\n") == 1


@pytest.fixture
def start_watching(provisioned):
    """Starts `rounds watch` as a process of its own; what it prints goes where the test says."""
    started = []

    def start(**streams):
        # a process that was started in the background, as some CI runs tests, inherits an ignored SIGINT
        command = (
            "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
            "from fedhe.cli.admin import main; main()"
        )
        arguments = ["--home", str(provisioned.home), "--as", "lead", "rounds", "watch", "tiny"]
        terminal = {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
        started.append(
            subprocess.Popen([sys.executable, "-c", command, *arguments], env=os.environ | terminal, **streams)
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.usefixtures("trained")
def test_on_a_terminal_the_picture_redraws(start_watching, script, run_of_a_job):
    script.watched = run_of_a_job
    terminal, inner = pty.openpty()
    watching = start_watching(stdin=inner, stdout=inner, stderr=inner)
    os.close(inner)
    shown = b""
    try:
        while part := os.read(terminal, 65536):
            shown += part
    except OSError:  # Linux says so when the other end is closed
        pass
    finally:
        os.close(terminal)
    text = shown.decode()
    assert watching.wait(30) == 0, text
    assert "\x1b[" in text
    assert "round 2 of 2 · finished" in text
    assert "after round 2: val_mean_dice 0.71" in text


@pytest.mark.usefixtures("trained")
def test_ctrl_c_ends_watching_without_a_traceback(start_watching, script, detail):
    never = threading.Event()
    script.watched = [detail("train"), never]
    watching = start_watching(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while "round 1 of 2 · train" not in watching.stdout.readline():
        assert watching.poll() is None
    watching.send_signal(signal.SIGINT)
    _, err = watching.communicate(timeout=30)
    never.set()
    assert watching.returncode == 130
    assert "Traceback" not in err
