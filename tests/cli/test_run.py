"""Every way a command can end: one line, and the documented exit code."""

import subprocess
import sys
from pathlib import Path

import pytest
import typer

from fedhe import errors
from fedhe.cli.run import EXIT_CODES_HELP, report, run
from fedhe.errors import FedheError


def every_error():
    found, left = [], [FedheError]
    while left:
        kind = left.pop()
        found.append(kind)
        left.extend(kind.__subclasses__())
    return sorted((kind for kind in found if kind.__module__ == errors.__name__), key=lambda kind: kind.__name__)


@pytest.fixture
def end_of(monkeypatch, capsys):
    """Runs a small app with these arguments; returns exit code, standard output and standard error."""
    app = typer.Typer(no_args_is_help=True)

    @app.command()
    def fail(kind: str) -> None:
        raise getattr(errors, kind)("expected an apple, got a pear", "buy apples")

    @app.command()
    def count(number: int) -> None:
        typer.echo(f"counted {number}")

    @app.command()
    def leave(code: int) -> None:
        raise typer.Exit(code)

    @app.command()
    def stop() -> None:
        raise KeyboardInterrupt

    @app.command()
    def refuse() -> None:
        raise typer.Abort

    @app.command()
    def bug() -> None:
        raise ZeroDivisionError

    def end(*arguments):
        monkeypatch.setattr(sys, "argv", ["fruit", *arguments])
        with pytest.raises(SystemExit) as caught:
            run(app)
        return caught.value.code, *capsys.readouterr()

    return end


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_each_error_is_one_line_and_its_exit_code(end_of, kind):
    code, out, err = end_of("fail", kind.__name__)
    assert (code, out) == (kind.exit_code, "")
    assert err == "error: expected an apple, got a pear; buy apples\n"


def test_the_help_documents_the_exit_code_of_every_error():
    for kind in every_error():
        assert f"{kind.exit_code} " in EXIT_CODES_HELP


def test_a_command_that_worked_ends_with_0(end_of):
    assert end_of("count", "3") == (0, "counted 3\n", "")


@pytest.mark.parametrize("code", [0, 3, 130])
def test_a_command_may_choose_its_exit_code(end_of, code):
    assert end_of("leave", str(code))[0] == code


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["count", "many"], "number"),
        (["count"], "number"),
        (["count", "1", "2"], "2"),
        (["count", "--colour"], "--colour"),
        (["conut", "1"], "conut"),
    ],
)
def test_wrong_arguments_are_one_line_that_points_to_the_help(end_of, arguments, said):
    code, out, err = end_of(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err
    assert "--help" in err


def test_no_arguments_at_all_show_the_help(end_of):
    code, out, err = end_of()
    assert code == 2
    assert "Usage" in out + err
    assert "error:" not in err


@pytest.mark.parametrize("command", ["stop", "refuse"])
def test_an_interrupted_command_ends_with_130(end_of, command):
    code, out, _ = end_of(command)
    assert (code, out) == (130, "")


PRINTING = (
    "import typer, fedhe.cli.run; app = typer.Typer(); "
    "app.command()(lambda: [typer.echo('x' * 1000) for _ in range(300)] and None); fedhe.cli.run.run(app)"
)


def test_an_output_that_cannot_be_written_is_one_line():
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", PRINTING], stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60
        )
    assert ended.returncode == 7
    assert ended.stderr == (
        "error: the output cannot be written: No space left on device; mend that and run it again\n"
    )


def test_a_bug_is_not_hidden(monkeypatch, end_of):
    with pytest.raises(ZeroDivisionError):
        end_of("bug")


def test_brackets_in_an_error_are_text_and_not_styles(capsys):
    report(FedheError("expected [b]a[/b], got [/]", "see [red]"))
    assert capsys.readouterr().err == "error: expected [b]a[/b], got [/]; see [red]\n"


def test_a_long_error_stays_one_line(capsys):
    report(FedheError("x " * 300 + "end"))
    assert capsys.readouterr().err.count("\n") == 1


def test_the_runner_does_not_need_click_itself():
    """Newer Typer carries its own copy of Click, so that Click need not be installed."""
    code = "import sys; sys.modules['click'] = None; import fedhe.cli.run"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
