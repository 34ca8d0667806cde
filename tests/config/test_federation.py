"""`config_fed.yml`: defaults, durations, and what is refused with its line."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhe.config.document import parse_document
from fedhe.config.federation import FederationConfig, federation_config, seconds_of
from fedhe.errors import ConfigError


def read(text):
    return federation_config(parse_document(text, Path("config_fed.yml")))


def test_all_but_rounds_has_a_default_for_days_long_training():
    config = read("rounds: 5\n")
    assert (config.min_sites, config.local_epochs, config.checkpoint_every) == (3, 1, 5)
    assert (config.train_deadline, config.upload_deadline, config.apply_deadline) == (86400.0, 21600.0, 21600.0)
    assert (config.precision.field_bits, config.precision.statistics_bits) == (16, 24)
    assert config.sites is None


def test_a_full_file_is_read():
    config = read(
        "name: brain\nrounds: 5\nlocal_epochs: 2\nmin_sites: 2\nsites: [b, a]\n"
        "train_deadline: 2h\nupload_deadline: 90\napply_deadline: 1.5m\n"
        "precision: {field_bits: 12}\nexclude: ['head.*']\nstatistics: local\n"
        "checkpoint_every: 1\nseed: 7\n"
    )
    assert (config.train_deadline, config.upload_deadline, config.apply_deadline) == (7200.0, 90.0, 90.0)
    assert config.exclude == ("head.*",)
    assert config.sites == ("b", "a")
    assert FederationConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "key 'rounds' is missing"),
        ("rounds: 0\n", ":1: rounds: Input should be greater than or equal to 1"),
        ("rounds: yes\n", ":1: rounds"),
        ("rounds: '3'\n", ":1: rounds"),
        ("rounds: 1.5\n", ":1: rounds"),
        ("rounds: 1\nmin_sites: 1\n", ":2: min_sites: Input should be greater than or equal to 2"),
        ("rounds: 1\nmin_sites: 1001\n", ":2: min_sites"),
        ("rounds: 1\ntrain_deadline: soon\n", ":2: train_deadline: expected a duration such as 90s, 30m, 2h or 1d"),
        ("rounds: 1\ntrain_deadline: 0\n", "from 1s to 366d, got 0"),
        ("rounds: 1\ntrain_deadline: 400d\n", "from 1s to 366d"),
        ("rounds: 1\nstatistics: never\n", "'share' or 'local'"),
        ("rounds: 1\nprecision:\n  bits: 3\n", ":3: unknown key 'precision.bits'"),
        ("rounds: 1\nsites: [a, A, b]\n", "each site once"),
        ("rounds: 1\nsites: [a, b]\n", "at least min_sites = 3, got 2"),
        ("rounds: 1\nname: ''\n", "1 to 63 printable"),
        ("rounds: 1\nseed: -1\n", ":2: seed"),
        ("rounds: 1\nrounds: 2\n", "already given on line 1"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(text, message):
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert message in caught.value.message
    assert "\n" not in caught.value.message


@given(st.floats(1, 366 * 86400), st.sampled_from(["", "s"]))
def test_seconds_are_durations(seconds, unit):
    value = f"{seconds:.3f}s" if unit else seconds
    assert seconds_of(value) == pytest.approx(seconds, abs=1e-3)


@given(st.one_of(st.text(max_size=20), st.floats(), st.booleans(), st.none(), st.lists(st.integers(), max_size=2)))
def test_any_value_is_a_duration_in_range_or_a_value_error(value):
    try:
        seconds = seconds_of(value)
    except ValueError:
        return
    assert 1.0 <= seconds <= 366 * 86400
