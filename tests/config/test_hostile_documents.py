"""Documents made to harm, or written in ways a parser trips over: one line for each, never a traceback."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhe.config.document import MAX_DOCUMENT_BYTES, load_document, parse_document
from fedhe.config.federation import federation_config
from fedhe.errors import ConfigError

YAML, JSON = Path("file.yml"), Path("file.json")


def refusal(text, path=YAML):
    with pytest.raises(ConfigError) as caught:
        federation_config(parse_document(text, path))
    assert caught.value.message.isprintable(), "one line, nothing that steers a terminal"
    return caught.value.message


@pytest.mark.parametrize(
    "text",
    [
        "rounds: 2001-99-99",
        "rounds: " + "9" * 5000,
        "rounds: !!int x",
        "rounds: !!float x",
        "rounds: !!bool x",
        "rounds: !!timestamp x",
        "? [a]\n: b",
        "? {a: b}\n: c",
        "rounds: =",
        "<<: 3",
        "rounds: *nothing",
        "rounds: 1\n---\nrounds: 2",
        "rounds: !!binary '####'",
    ],
)
def test_a_value_that_cannot_be_made_is_told_with_its_line(text):
    assert refusal("# a comment\n" + text).startswith("file.yml:")


def test_the_line_is_that_of_the_value():
    assert refusal("rounds: 1\nseed: 2001-99-99\n") == "file.yml:2: not a valid timestamp"
    assert refusal("rounds: 1\nname: a\0b\n") == "file.yml:2: character U+0000 is not allowed"


@pytest.mark.parametrize("path", [YAML, JSON])
@pytest.mark.parametrize("text", ["[" * 3000, "[" * 3000 + "]" * 3000, '{"a":' * 3000])
def test_nesting_without_end_is_refused(text, path):
    assert "nested too deeply" in refusal(text, path)


@pytest.mark.parametrize("text", ["&a [*a]", "rounds: &a {b: *a}", "&a {<<: *a}"])
def test_an_alias_of_what_it_is_in_is_refused(text):
    assert refusal(text).startswith("file.yml")


def bomb(levels, opening, closing, first):
    nine = [", ".join([f"*a{level}"] * 9) for level in range(levels)]
    higher = [f"a{level}: &a{level} {opening}{nine[level - 1]}{closing}" for level in range(1, levels)]
    return "\n".join([f"a0: &a0 {first}", *higher])


@pytest.mark.parametrize(
    "text",
    [
        bomb(12, "[", "]", "[x, x, x]"),
        bomb(12, "{<<: [", "]}", "{x: 1, y: 2}"),
        "a: &a " + "x" * 100_000 + "\nsites: [" + ", ".join(["*a"] * 1000) + "]",
    ],
    ids=["lists", "merges", "long text"],
)
def test_a_few_lines_that_stand_for_more_than_memory_holds_are_refused(text):
    assert "stands for more than" in refusal(text)


def test_honest_aliases_and_merges_are_read():
    text = "default: &d {a: 1, b: 2}\none: {<<: *d, b: 3}\ntwo: *d\n"
    document = parse_document(text, YAML)
    assert document.data == {"default": {"a": 1, "b": 2}, "one": {"a": 1, "b": 3}, "two": {"a": 1, "b": 2}}


@pytest.mark.parametrize("text", ['"a\\nb": 1', '"\\e[31mred": 1', '"\\a": 1\n"\\a": 2', 'sites: ["\\n", "\\n"]'])
def test_keys_and_values_from_the_file_cannot_break_the_line_of_the_message(text):
    refusal("rounds: 1\n" + text)


def test_a_long_key_is_cut():
    assert len(refusal("rounds: 1\n? " + "k" * 5000 + "\n: 1")) < 300


def test_json_that_yaml_does_not_take_is_still_read_and_still_refuses_a_key_given_twice():
    long = "k" * 2000  # YAML takes keys of 1024 characters
    assert parse_document(f'{{"{long}": 1}}', JSON).data == {long: 1}
    assert refusal(f'{{"{long}": 1, "rounds": 1, "rounds": 2}}', JSON) == "file.json: key 'rounds' was already given"
    assert parse_document('{"del": "\x7f"}', JSON).data == {"del": "\x7f"}


def test_json_of_very_many_keys_is_searched_for_a_key_given_twice_in_one_go():
    """Each key compared with all before it would take hours."""
    many = ",".join(f'"{number}":1' for number in range(200_000))
    assert "key '7' was already given" in refusal(f'{{"{"k" * 2000}":1,{many},"7":2}}', JSON)


def test_a_number_of_thousands_of_digits_is_refused_in_json():
    assert refusal('{"rounds": ' + "9" * 5000 + "}", JSON) == "file.json: a number has too many digits"


@pytest.mark.parametrize("name", ["a.yml", "a.json"])
def test_the_mark_that_some_editors_put_first_is_skipped(tmp_path, name):
    path = tmp_path / name
    path.write_text('{"rounds": 3}', encoding="utf-8-sig")
    assert federation_config(load_document(path)).rounds == 3


def test_a_text_that_came_from_elsewhere_is_as_limited_as_a_file():
    with pytest.raises(ConfigError, match="at most"):
        parse_document(" " * (MAX_DOCUMENT_BYTES + 1), YAML)


@pytest.mark.parametrize(
    "value", ["1" + "0" * 400, "[1, 2]", "{a: 1}", "yes", "null", ".nan", ".inf", "-5", "1w", '""']
)
def test_what_is_no_duration_is_told_with_file_and_line(value):
    assert refusal(f"rounds: 1\ntrain_deadline: {value}").startswith("file.yml:2: train_deadline: expected a duration")


yaml_text = st.text(alphabet=st.sampled_from("ab01:-?,[]{}&*!<>|'\"#% \n.=~\t\\x"), max_size=60)


@given(yaml_text, st.sampled_from([YAML, JSON]))
@settings(max_examples=400, deadline=None)
def test_any_text_made_of_what_yaml_is_made_of_is_read_or_refused_in_one_line(text, path):
    try:
        federation_config(parse_document("rounds: 1\n" * (path == YAML) + text, path))
    except ConfigError as error:
        message = error.message
    else:
        message = ""
    assert "\n" not in message
