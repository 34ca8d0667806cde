"""`fedhe-admin logs`: lines of the server and the sites, for people and programs."""

import json

import pytest

from fedhe.errors import TrustError, UnavailableError
from fedhe.wire import federation


@pytest.fixture
def lines(script):
    script.log = [
        federation.LogLine(time=1_700_000_000, level="info", source="server", message="started"),
        federation.LogLine(
            time=1_700_000_001.5,
            level="error",
            source="hospitalA",
            job_id="a1b2c3d4",
            message="\x1b[2Jloss is NaN [/b]",
        ),
    ]


def test_lines_for_people(fedhe_admin, lines):
    code, out, err = fedhe_admin("logs")
    assert (code, err) == (0, "")
    first, second = out.splitlines()
    assert first.endswith("info    server: started")
    assert "hospitalA [a1b2c3d4]: " in second
    assert "loss is NaN [/b]" in second
    assert "\x1b" not in out


def test_lines_for_programs(fedhe_admin, lines):
    code, out, _ = fedhe_admin("logs", "--json")
    assert code == 0
    first, second = map(json.loads, out.splitlines())
    assert first == {"time": 1_700_000_000, "level": "info", "source": "server", "job_id": None, "message": "started"}
    assert second["job_id"] == "a1b2c3d4"


def test_what_is_asked_for_reaches_the_server(fedhe_admin, script, trained):
    assert fedhe_admin("logs", "--source", "hospitalB", "--job", "tiny", "--last", "7")[0] == 0
    (request,) = [request for method, request in script.calls if method == "request"]
    assert (request.source, request.job_id, request.follow, request.last) == ("hospitalB", trained.job_id, False, 7)


def test_following_outlives_the_server_and_tells_each_line_once(fedhe_admin, script, monkeypatch):
    """It ends only when the server says no."""
    monkeypatch.setattr("fedhe.cli.admin_session.MAX_BACK_OFF_SECONDS", 0.05)

    def line(time, source, message):
        return federation.LogLine(time=time, level="info", source=source, message=message)

    early = [line(10, "server", "one"), line(5, "hospitalA", "slow clock")]
    script.log = [
        *early,
        UnavailableError("the server restarts"),
        *(*early, line(11, "server", "two"), line(6, "hospitalA", "still slow"), None),
        TrustError("revoked"),
    ]
    code, out, err = fedhe_admin("logs", "--follow", "--json")
    assert code == 3
    assert [json.loads(shown)["message"] for shown in out.splitlines()] == ["one", "slow clock", "two", "still slow"]
    assert err.splitlines()[0].startswith("warning: ")
    assert err.splitlines()[-1] == "error: revoked"


def test_a_server_that_is_away_is_an_error_where_nothing_is_followed(fedhe_admin, script):
    script.log = [UnavailableError("the server restarts")]
    code, _, err = fedhe_admin("logs")
    assert code == 5
    assert err.count("\n") == 1


def test_a_source_that_does_not_exist_gives_the_nearest(fedhe_admin, script):
    code, _, err = fedhe_admin("logs", "--source", "sever")
    assert code == 6
    assert err.count("\n") == 1
    assert "did you mean 'server'?" in err


@pytest.mark.parametrize("last", ["-1", "10001", "all"])
def test_a_number_of_lines_out_of_range_is_refused(fedhe_admin, script, last):
    assert fedhe_admin("logs", "--last", last)[0] == 2
