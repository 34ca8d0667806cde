"""Requests and results survive the way through their files; what is not one of them is refused."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhe.config.trainer import TensorInfo, TrainRequest, TrainResult, read_request, read_result, write_result
from fedhe.errors import ConfigError

names = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=20)


@settings(deadline=None)
@given(
    samples=st.integers(0, 10**6),
    metrics=st.dictionaries(names, st.floats(allow_nan=False, allow_infinity=False), max_size=5),
    shape=st.lists(st.integers(0, 100), max_size=4),
)
def test_a_result_comes_back_as_it_was_written(tmp_path_factory, samples, metrics, shape):
    folder = tmp_path_factory.mktemp("result")
    tensor = TensorInfo(name="a.b", shape=tuple(shape), dtype="float32", statistic=False)
    main = next(iter(metrics), None)
    result = TrainResult(samples=samples, metrics=metrics, main_metric=main, seconds=1.5, layout=(tensor,))
    write_result(result, folder)
    assert read_result(folder) == result
    assert list(read_result(folder).metrics) == list(metrics)


def test_a_request_comes_back_as_it_was_written(tmp_path):
    request = TrainRequest(
        task="train", mmar=tmp_path, output=tmp_path / "o", overrides={"DATA_ROOT": "/d", "n": 3}, seed=5, gpus=(0, 1)
    )
    file = tmp_path / "request.json"
    file.write_text(request.model_dump_json())
    assert read_request(file) == request


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"main_metric": "dice"}, "main_metric: expected one of"),
        ({"metrics": {"a": float("nan")}}, "expected finite numbers, got a=nan"),
        ({"samples": -1}, "samples"),
        ({"surprise": 1}, "unknown key 'surprise'"),
    ],
)
def test_a_result_that_cannot_be_is_refused(tmp_path, change, message):
    (tmp_path / "result.json").write_text(json.dumps({"samples": 1, "seconds": 1, "layout": [], **change}))
    with pytest.raises(ConfigError, match=message):
        read_result(tmp_path)


def test_a_missing_result_and_a_validation_without_a_model_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"result\.json"):
        read_result(tmp_path)
    file = tmp_path / "request.json"
    file.write_text(json.dumps({"task": "validate", "mmar": ".", "output": "."}))
    with pytest.raises(ConfigError, match="model_in: expected a file"):
        read_request(file)
