"""The note that a site seals for the other sites."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhe.client.note import MAX_SAMPLES, Note, open_applied_note, read_note, seal_applied_note
from fedhe.errors import RemoteProtocolError, TrustError
from fedhe.trust.sealed import GroupKey

finite = st.floats(allow_nan=False, allow_infinity=False)
notes = st.builds(
    Note,
    samples=st.integers(0, MAX_SAMPLES),
    max_change=st.dictionaries(st.text(max_size=20), st.floats(0, 3e38), max_size=5),
    metrics=st.dictionaries(st.text(max_size=20), finite, max_size=5),
    main_metric=st.none() | st.text(max_size=20),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(notes)
def test_a_note_reads_back_as_it_was_written(note):
    assert read_note(note.to_json()) == note


@given(st.binary(max_size=200))
def test_any_bytes_are_a_note_or_one_documented_error(data):
    with pytest.raises(RemoteProtocolError):
        read_note(data)


@given(samples=json_values, max_change=json_values, metrics=json_values, main_metric=json_values)
def test_any_json_is_a_note_or_one_documented_error(samples, max_change, metrics, main_metric):
    value = {"v": 1, "samples": samples, "max_change": max_change, "metrics": metrics, "main_metric": main_metric}
    try:
        note = read_note(json.dumps(value).encode())
    except RemoteProtocolError:
        return
    assert 0 <= note.samples <= MAX_SAMPLES
    assert all(0 <= change < math.inf for change in note.max_change.values())
    assert all(math.isfinite(metric) for metric in note.metrics.values())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"samples": -1}, "samples"),
        ({"samples": True}, "samples"),
        ({"samples": 1.5}, "samples"),
        ({"max_change": {"w": -1.0}}, "changes from 0"),
        ({"max_change": {"w": 1e39}}, "changes from 0"),
        ({"max_change": {"w": "1"}}, "expected a number"),
        ({"max_change": {"w": 10**400}}, "too large|JSON"),
        ({"v": 2}, "version 1"),
        ({"extra": 1}, "expected the keys"),
    ],
)
def test_a_number_out_of_range_is_refused(changed, said):
    value = {"v": 1, "samples": 1, "max_change": {"w": 1.0}, "metrics": {}, "main_metric": None}
    with pytest.raises(RemoteProtocolError, match=said):
        read_note(json.dumps(value | changed).encode())


def test_nan_in_a_note_is_refused_and_never_written():
    with pytest.raises(RemoteProtocolError, match="NaN"):
        read_note(b'{"v":1,"samples":1,"max_change":{"w":NaN},"metrics":{},"main_metric":null}')
    assert json.loads(Note(1, {}, {"loss": math.nan, "dice": 0.5}, None).to_json())["metrics"] == {"dice": 0.5}


def test_the_last_models_note_opens_only_in_its_own_place():
    key = GroupKey.generate()
    note = Note(0, {}, {"val_mean_dice": 0.9}, "val_mean_dice")
    sealed = seal_applied_note(key, "project", "job", 3, "A", note)
    assert open_applied_note(key, "project", "job", 3, "A", sealed) == note
    for place in [
        ("other", "job", 3, "A"),
        ("project", "j", 3, "A"),
        ("project", "job", 2, "A"),
        ("project", "job", 3, "B"),
    ]:
        with pytest.raises(TrustError):
            open_applied_note(key, *place, sealed)
    with pytest.raises(TrustError):
        open_applied_note(GroupKey.generate(), "project", "job", 3, "A", sealed)
