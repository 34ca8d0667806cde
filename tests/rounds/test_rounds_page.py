"""docs/rounds.md shows the transition table as it is."""

import subprocess
import sys
from pathlib import Path

import pytest

from fedhe.rounds.draw import drawing
from fedhe.rounds.machine import MOVES, TABLE

PAGE = Path(__file__).parents[2] / "docs" / "rounds.md"
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"


def test_the_page_holds_the_table_of_the_code():
    page = PAGE.read_text(encoding="utf-8")
    shown = page.partition(BEGIN)[2].partition(END)[0]
    if shown.strip() != drawing().strip():
        pytest.fail(f"put what `python -m fedhe.rounds.draw` prints between the marks of {PAGE.name}", pytrace=False)


def test_the_module_prints_what_it_draws():
    printed = subprocess.run(
        [sys.executable, "-m", "fedhe.rounds.draw"], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    assert printed == drawing()


def test_each_move_and_each_deciding_function_has_its_row_with_words():
    lines = drawing().splitlines()
    for (before, after), why in MOVES.items():
        assert f"| {before} | {after} | {why} |" in lines
    for handlers in TABLE.values():
        for handler in handlers.values():
            name = handler.__name__.removeprefix("_")
            assert name == "nothing" or any(
                line.startswith(f"| `{name}` | ") and line.endswith(". |") for line in lines
            ), f"{name} has no docstring"
