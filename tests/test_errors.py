"""What an error says is one line that a terminal or a log can show, whoever made up what it quotes."""

import pytest

from fedhe.errors import FedheError


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("expected ä, got 日本", "expected ä, got 日本"),
        ("got a\nerror: all is well", "got a error: all is well"),
        ("got \x1b[2J\x07\x7f\x9b", "got  [2J   "),
        ("got m\udcf6del.bin", "got m?del.bin"),
    ],
)
def test_what_came_cannot_steer_a_terminal_or_forge_a_line(said, shown):
    error = FedheError(said, said)
    assert error.message == error.hint == str(error) == shown


def test_no_hint_stays_none():
    assert FedheError("what happened").hint is None
