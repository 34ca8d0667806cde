"""Puts variables into a training configuration: `{DATA_ROOT}`, `@DATA_ROOT`, and `--set key=value`."""

import difflib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from copy import deepcopy
from typing import Any

from fedhe.config.document import Document, Key
from fedhe.errors import ConfigError

OBJECTS = frozenset(
    {
        "model",
        "network",
        "loss",
        "optimizer",
        "lr_scheduler",
        "inferer",
        "dataset",
        "dataloader",
        "pre_transforms",
        "post_transforms",
        "trainer",
        "evaluator",
        "device",
        "rank",
        "world_size",
    }
)
"""What `@name` may refer to besides variables; `training` builds them."""

_BRACED = re.compile(r"\{\{|\}\}|\{([A-Za-z_]\w*)\}")
_NAME = re.compile(r"^[A-Za-z_]\w*$")
_WORDS = {"True": True, "False": False, "None": None}


def nearest(word: str, known: Iterable[str]) -> str | None:
    """A hint with the known word that is most like `word`, or None where none is; case counts least."""
    by_folded: dict[str, list[str]] = {}
    for name in sorted(known):
        by_folded.setdefault(name.casefold(), []).append(name)
    near = difflib.get_close_matches(word.casefold(), by_folded, n=1, cutoff=0.5)
    if not near:
        return None
    spelled = max(by_folded[near[0]], key=lambda name: difflib.SequenceMatcher(None, word, name).ratio())
    return f"did you mean '{spelled}'?"


def hint(word: str, known: Collection[str], *, noun: str) -> str:
    """The nearest known word, or all of them where they are few."""
    near = nearest(word, known)
    if near is not None:
        return near
    return f"known {noun}: {', '.join(sorted(known))}" if 0 < len(known) <= 30 else f"{len(known)} {noun} are known"


def names_in(value: Any) -> set[str]:
    """Names of the variables and objects that a value refers to."""
    if isinstance(value, dict):
        return {name for item in value.values() for name in names_in(item)}
    if isinstance(value, list):
        return {name for item in value for name in names_in(item)}
    if not isinstance(value, str):
        return set()
    if value.startswith("@") and _NAME.match(value[1:]):
        return {value[1:]}
    return {found[1] for found in _BRACED.finditer(value) if found[1]}


def put_in(document: Document, value: Any, variables: Mapping[str, Any], key: tuple[Key, ...] = ()) -> Any:
    """A copy of `value` with its variables replaced.

    A string that is nothing but `{NAME}` or `@NAME` becomes the variable's value with its type; within a longer string
    the value is written out. `{{` and `}}` stand for braces. `@model` and the other `OBJECTS` stay.

    Args:
        document: for the lines in errors.
        value: a part of the document's data.
        variables: by name.
        key: place of `value` in the document.

    Raises:
        ConfigError: an unknown variable, with file, line, key and the nearest known name.
    """
    if isinstance(value, dict):
        return {name: put_in(document, item, variables, (*key, name)) for name, item in value.items()}
    if isinstance(value, list):
        return [put_in(document, item, variables, (*key, index)) for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def look_up(name: str, known: Collection[str]) -> Any:
        if name not in variables:
            place = f"{document.where(key)}: {dotted(key)}"
            raise ConfigError(f"{place}: unknown variable '{name}'", hint(name, known, noun="variables"))
        return variables[name]

    if value.startswith("@") and _NAME.match(value[1:]):
        name = value[1:]
        return value if name in OBJECTS else look_up(name, {*variables, *OBJECTS})
    whole = _BRACED.fullmatch(value)
    if whole and whole[1]:
        return look_up(whole[1], variables)
    return _BRACED.sub(lambda found: str(look_up(found[1], variables)) if found[1] else found[0][0], value)


def split_settings(settings: Iterable[str]) -> list[tuple[str, Any]]:
    """`key=value` texts to keys and values; a value is JSON, or True, False, None, or else a text.

    Raises:
        ConfigError: no `=`.
    """
    pairs = []
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {setting}: expected key=value", "for example --set epochs=5")
        pairs.append((key.strip(), _value(text.strip())))
    return pairs


def change(data: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy of `data` with the value at a dotted key changed; only below an `args` may the last part be new.

    Raises:
        ConfigError: there is nothing at that key; with the nearest key that is there.
    """
    data = deepcopy(data)
    here: Any = data
    parts = key.split(".")
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        known = (
            list(here)
            if isinstance(here, dict)
            else [str(i) for i in range(len(here))]
            if isinstance(here, list)
            else []
        )
        if part not in known and not (last and isinstance(here, dict) and "args" in parts[:depth]):
            above = ".".join(parts[:depth]) or "the configuration"
            raise ConfigError(f"--set {key}: there is no '{part}' in {above}", hint(part, known, noun="keys"))
        index: Any = int(part) if isinstance(here, list) else part
        if last:
            here[index] = value
        else:
            here = here[index]
    return data


def dotted(key: tuple[Key, ...]) -> str:
    """A key as people write it, such as train.handlers.0.args."""
    return ".".join(str(part) for part in key) or "the file"


def _value(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    try:
        return json.loads(text)
    except ValueError:
        return text
