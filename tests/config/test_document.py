"""Documents: every fault names file and line, every unknown key its nearest known one."""

import contextlib
import json
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from fedhe.config.document import MAX_DOCUMENT_BYTES, FrozenModel, load_document, parse_document, validate
from fedhe.errors import ConfigError


class Inner(FrozenModel):
    width: int = 1


class Outer(FrozenModel):
    name: str
    inner: Inner = Inner()
    many: list[Inner] = Field(default_factory=list)
    either: Inner | str = "x"


YAML, JSON = Path("file.yml"), Path("file.json")


def refused(text, path=YAML):
    with pytest.raises(ConfigError) as caught:
        validate(Outer, parse_document(text, path))
    assert "\n" not in caught.value.message
    return caught.value


def test_a_good_file_is_read_in_either_form():
    assert validate(Outer, parse_document("name: a\ninner: {width: 2}\n", YAML)).inner.width == 2
    assert validate(Outer, parse_document('{"name": "a",\n\t"inner": {"width": 2}}', JSON)).inner.width == 2


def test_a_model_cannot_be_changed():
    model = validate(Outer, parse_document("name: a", YAML))
    with pytest.raises(ValueError, match="frozen"):
        model.name = "b"


def test_an_unknown_key_names_its_line_and_the_nearest_key():
    error = refused("name: a\ninner:\n  widht: 3\n")
    assert error.message == "file.yml:3: unknown key 'inner.widht'"
    assert error.hint == "did you mean 'width'?"
    assert refused("name: a\nxyzzy: 1\n").hint == "known keys: either, inner, many, name"
    error = refused("name: a\nmany:\n  - {width: 1}\n  - {with: 1}\n")
    assert (error.message, error.hint) == ("file.yml:4: unknown key 'many.1.with'", "did you mean 'width'?")


def test_a_missing_key_and_a_wrong_value_are_told_with_their_line():
    assert refused("inner: {width: 1}\n").message == "file.yml:1: key 'name' is missing"
    assert refused("").message == "file.yml:1: key 'name' is missing"
    assert refused("name: a\ninner:\n  width: wide\n").message.startswith("file.yml:3: inner.width: ")
    assert refused("- a\n- b\n").message.startswith("file.yml:1: the file: ")


def test_the_same_key_twice_is_an_error_in_yaml_and_json():
    assert refused("name: a\nname: b\n").message == "file.yml:2: key 'name' was already given on line 1"
    assert refused('{"name": "a",\n"name": "b"}', JSON).message == "file.json:2: key 'name' was already given on line 1"


def test_bad_syntax_names_the_line():
    assert refused("name: a\n b: [\n").message.startswith("file.yml:")
    assert refused('{"name": }', JSON).message.startswith("file.json:1: ")
    assert refused("name: !!python/object:os.system x\n").message.startswith("file.yml:1: ")


def test_files_that_cannot_be_read_are_told_in_one_line(tmp_path):
    path = tmp_path / "a.yml"
    with pytest.raises(ConfigError, match="No such file"):
        load_document(path)
    with pytest.raises(ConfigError, match="Is a directory"):
        load_document(tmp_path)
    path.write_bytes(b"name: \xff")
    with pytest.raises(ConfigError, match=r"not UTF-8 text \(byte 6\)"):
        load_document(path)
    path.write_bytes(b" " * (MAX_DOCUMENT_BYTES + 1))
    with pytest.raises(ConfigError, match="at most"):
        load_document(path)
    path.write_text("name: a\n")
    assert load_document(path).data == {"name": "a"}


@given(st.text(max_size=80), st.sampled_from([YAML, JSON]))
def test_any_text_is_read_or_refused_with_one_error(text, path):
    with contextlib.suppress(ConfigError):
        validate(Outer, parse_document(text, path))


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=6), plain, max_size=4))
def test_json_is_read_as_json_reads_it(data):
    assert parse_document(json.dumps(data, indent=1), JSON).data == data


def test_a_word_that_is_not_one_of_the_known_ones_is_told_with_those(tmp_path):
    class Engines(FrozenModel):
        engine: Literal["seal", "fast"] = "seal"

    path = tmp_path / "project.yml"
    for word, hint in (("fsat", "did you mean 'fast'?"), ("openfhe", None), (3, None)):
        with pytest.raises(ConfigError) as caught:
            validate(Engines, parse_document(f"\nengine: {word}", path))
        assert caught.value.message == f"{path}:2: engine: expected 'seal' or 'fast', got '{word}'"
        assert caught.value.hint == hint
