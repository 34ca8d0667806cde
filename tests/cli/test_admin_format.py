"""Numbers, times and foreign text as an admin reads them."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhe.cli.admin_format import MAX_SHOWN_CHARACTERS, count_of, duration, mean, nearest, percent, printable, size


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 KB"),
        (1234, "1.23 KB"),
        (12_345, "12.3 KB"),
        (999_499, "999 KB"),
        (999_500, "1.00 MB"),
        (3_000_000_000, "3.00 GB"),
        (2**64 - 1, "18447 PB"),
    ],
)
def test_bytes_have_three_digits_and_a_unit(count, shown):
    assert size(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-3, "0 s"),
        (0.4, "0 s"),
        (45, "45 s"),
        (200, "3 min 20 s"),
        (3600, "1 h"),
        (7380, "2 h 3 min"),
        (86400 * 2 + 4 * 3600 + 59, "2 d 4 h"),
        (86400 + 59, "1 d"),
    ],
)
def test_durations_have_two_units_at_most(seconds, shown):
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    ("fraction", "shown"), [(-1, "0 %"), (0.5, "50 %"), (0.999, "99 %"), (1, "100 %"), (7, "100 %")]
)
def test_percents_never_claim_the_end_early(fraction, shown):
    assert percent(fraction) == shown


@given(st.text(max_size=MAX_SHOWN_CHARACTERS + 50))
def test_foreign_text_never_steers_a_terminal(text):
    shown = printable(text)
    assert all(unicodedata.category(sign)[0] != "C" for sign in shown)
    assert len(shown) <= MAX_SHOWN_CHARACTERS + 1


def test_foreign_text_that_is_harmless_stays_as_it_is():
    assert printable("Klinikum Würzburg: 3 Fälle, 東京") == "Klinikum Würzburg: 3 Fälle, 東京"
    assert "\x1b" not in printable("\x1b[2J\x1b]0;owned\x07")


def test_a_mistyped_name_gives_the_nearest_one():
    assert nearest("hospitlaB", ["hospitalA", "hospitalB"]) == "did you mean 'hospitalB'?"
    assert nearest("xyz", ["hospitalA", "hospitalB"]) == "known: hospitalA, hospitalB"
    assert nearest("xyz", []) is None
    assert nearest("xyz", [f"site{n}" for n in range(50)]) is None


def test_a_mean_of_nothing_is_nothing():
    assert mean({}) is None
    assert mean(None) is None
    assert mean({"a": 1.0, "b": 2.0}) == 1.5


def test_one_is_singular():
    assert (count_of(1, "site"), count_of(2, "site")) == ("1 site", "2 sites")
