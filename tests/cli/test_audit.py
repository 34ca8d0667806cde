"""`fedhe-server audit` and `fedhe-client audit`: the history is whole, or one line says where it is not."""

import json

import pytest
from typer.testing import CliRunner

from fedhe.cli import client, server
from fedhe.errors import ConfigError, FedheError, NotFoundError, TrustError
from fedhe.trust import audit_log


@pytest.fixture(params=["server", "site"])
def log(request, tmp_path):
    """A log of five lines where the command looks for it, and the command."""
    folder = tmp_path / "server" if request.param == "server" else tmp_path / "sites" / "hospitalA"
    (folder / "kit").mkdir(parents=True)
    path = folder / audit_log.AUDIT_FILE
    for number in range(5):
        audit_log.append(path, "happened", {"who": f"\x1b[31m{number}", "round": number}, 1000.0 + number)

    def run(*arguments):
        app = server.app if request.param == "server" else client.app
        result = CliRunner().invoke(app, ["audit", *arguments, "--home", str(tmp_path)])
        if isinstance(result.exception, FedheError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.output

    return path, run


def test_the_head_that_verify_prints_is_taken_by_a_later_verify(log):
    path, run = log
    head = run("verify").splitlines()[-1].removeprefix("head: ")
    assert head == f"5:{audit_log.head(path).digest}"
    audit_log.append(path, "happened", {}, 2000.0)
    assert "it extends the head of 5 lines" in run("verify", "--head", head)
    told = json.loads(run("verify", "--head", head, "--json"))
    assert told == {"lines": 6, "digest": audit_log.head(path).digest, "torn_bytes": 0, "heads": 1}


def test_a_log_that_is_gone_is_not_whole(log):
    path, run = log
    path.unlink()
    for command in ("verify", "show"):
        with pytest.raises(NotFoundError, match="no audit log here"):
            run(command)


def test_a_changed_line_and_a_cut_log_are_refused(log):
    path, run = log
    head = run("verify").splitlines()[-1].removeprefix("head: ")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]))
    with pytest.raises(TrustError, match="lines were cut off"):
        run("verify", "--head", head)
    path.write_bytes(b"".join([lines[0], lines[1].replace(b'"round":1', b'"round":7'), *lines[2:]]))
    with pytest.raises(TrustError, match=r"audit\.log:3: carries .* the log was altered"):
        run("verify")


@pytest.mark.parametrize("head", ["5", "x:" + "0" * 64, "5:" + "0" * 63, "-1:" + "0" * 64, "9" * 40 + ":" + "0" * 64])
def test_what_is_no_head_is_refused(log, head):
    with pytest.raises(ConfigError, match="--head: expected LINES:DIGEST with 64 hexadecimal digits, got"):
        log[1]("verify", f"--head={head}")


def test_show_prints_the_newest_lines_and_no_control_character(log):
    _, run = log
    table = run("show", "--last", "2")
    assert "\x1b" not in table
    assert "round: 4" in table
    assert "round: 2" not in table
    rows = json.loads(run("show", "--last", "2", "--json"))
    assert [(row["line"], row["kind"], row["fields"]["round"]) for row in rows] == [
        (4, "happened", 3),
        (5, "happened", 4),
    ]


def test_without_a_site_there_is_no_log_to_verify(tmp_path):
    result = CliRunner().invoke(client.app, ["audit", "verify", "--home", str(tmp_path)])
    assert isinstance(result.exception, NotFoundError)
