"""Reads a YAML or JSON file and validates it against a pydantic model; errors name file, line and nearest key."""

import difflib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from fedhe.errors import ConfigError

MAX_DOCUMENT_BYTES = 4 * 1024 * 1024

MAX_EXPANDED_BYTES = 2 * MAX_DOCUMENT_BYTES
"""About what a document's values take, each alias (`*name`) counted as what it stands for: a few lines of aliases of
aliases can stand for more than any memory holds."""

_ENTRY_BYTES = 40
"""What one key or item counts at least, bytes."""

_SHOWN_CHARACTERS = 200

Key = str | int
ModelT = TypeVar("ModelT", bound=BaseModel)


class FrozenModel(BaseModel):
    """Base of all configuration models: immutable, unknown keys are errors, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, validate_default=True)


@dataclass(frozen=True)
class Document:
    """A parsed file together with the line of each of its keys (1-based)."""

    path: Path
    data: Any
    lines: dict[tuple[Key, ...], int]

    def where(self, key: tuple[Key, ...]) -> str:
        """`file:line` of the key, or of its nearest ancestor whose line is known."""
        for length in range(len(key), -1, -1):
            if (line := self.lines.get(key[:length])) is not None:
                return f"{self.path}:{line}"
        return str(self.path)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with a line for every value that it cannot make, such as the date 2001-99-99."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, AttributeError, TypeError, OverflowError) as error:
            kind = node.tag.rpartition(":")[2]
            raise yaml.constructor.ConstructorError(None, None, f"not a valid {kind}", node.start_mark) from error


def load_document(path: Path) -> Document:
    """Reads `path` (`.json` as JSON, all else as YAML).

    Raises:
        ConfigError: no such file, too large (over `MAX_DOCUMENT_BYTES`), not UTF-8, bad syntax, nested too deeply or a
            key given twice; with file and line.
    """
    try:
        size = path.stat().st_size
        if size > MAX_DOCUMENT_BYTES:
            raise ConfigError(f"{path}: {size} bytes, at most {MAX_DOCUMENT_BYTES} are read")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}", "check the path") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from error
    return parse_document(text, path)


def parse_document(text: str, path: Path) -> Document:
    """Parses the text of a file named `path`, whoever wrote it; see `load_document`."""
    if len(text) > MAX_DOCUMENT_BYTES:
        raise ConfigError(f"{path}: {len(text)} characters, at most {MAX_DOCUMENT_BYTES} are read")
    text = text.removeprefix("\ufeff")  # some editors begin a file with it
    try:
        return _parse_json(text, path) if path.suffix == ".json" else _parse_yaml(text, path)
    except RecursionError as error:
        raise ConfigError(f"{path}: nested too deeply") from error


def _parse_json(text: str, path: Path) -> Document:
    try:
        data = json.loads(text)
        # JSON allows tabs between tokens, YAML does not; a tab inside a JSON string is written as \t.
        node = yaml.compose(text.replace("\t", " "), Loader=yaml.SafeLoader)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}: {error.msg} (column {error.colno})") from error
    except yaml.YAMLError:  # JSON that this YAML parser does not take still has a value, only no lines
        return Document(path, json.loads(text, object_pairs_hook=partial(_distinct, path)), {(): 1})
    except ValueError as error:
        raise ConfigError(f"{path}: a number has too many digits") from error
    return Document(path, data, _lines(node, path))


def _distinct(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ConfigError(f"{path}: key '{_shown(name)}' was already given")
        found[name] = value
    return found


def _parse_yaml(text: str, path: Path) -> Document:
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        lines = _lines(node, path)  # before any value is made: this is what stops a bomb of aliases
        data = None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ConfigError(f"{path}:{mark.line + 1 if mark else 1}: {error.problem or error.context}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{path}:{line}: character U+{ord(text[error.position]):04X} is not allowed") from error
    return Document(path, data, lines)


def _lines(node: yaml.Node | None, path: Path) -> dict[tuple[Key, ...], int]:
    """The line of each key and item.

    Raises:
        ConfigError: a key is given twice, or the values are more than `MAX_EXPANDED_BYTES`.
    """
    lines: dict[tuple[Key, ...], int] = {(): 1}
    left = MAX_EXPANDED_BYTES
    for key, line, value in () if node is None else _entries(node, (), path):
        left -= _ENTRY_BYTES + (len(value.value) if isinstance(value, yaml.ScalarNode) else 0)
        if left < 0:
            raise ConfigError(f"{path}: stands for more than {MAX_EXPANDED_BYTES} bytes", "use fewer aliases (*name)")
        lines[key] = line
    return lines


def _entries(node: yaml.Node, key: tuple[Key, ...], path: Path) -> Iterator[tuple[tuple[Key, ...], int, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for name, value in node.value:
            if not isinstance(name, yaml.ScalarNode):
                continue  # the loader refuses it
            line = name.start_mark.line + 1
            if name.value in seen:
                first = seen[name.value]
                raise ConfigError(f"{path}:{line}: key '{_shown(name.value)}' was already given on line {first}")
            seen[name.value] = line
            yield (*key, name.value), line, value
            yield from _entries(value, (*key, name.value), path)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*key, index), value.start_mark.line + 1, value
            yield from _entries(value, (*key, index), path)


def _shown(text: str) -> str:
    """One line that a terminal shows as it is."""
    return (text if text.isprintable() else ascii(text)[1:-1])[:_SHOWN_CHARACTERS]


def validate(model: type[ModelT], document: Document) -> ModelT:
    """Turns a document into a validated model.

    Raises:
        ConfigError: the first thing that is wrong, with file, line, key and, for an unknown key, the nearest known one.
    """
    data = {} if document.data is None else document.data
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        raise ConfigError(*_explain(model, document, first)) from error


def _explain(model: type[BaseModel], document: Document, error: ErrorDetails) -> tuple[str, str | None]:
    kind, loc = error["type"], error["loc"]
    dotted = _shown(".".join(str(part) for part in loc)) or "the file"
    where = document.where(loc)
    if kind == "extra_forbidden":
        known = _known_keys(model, loc[:-1])
        near = difflib.get_close_matches(str(loc[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(known)}" if known else None
        return f"{where}: unknown key '{dotted}'", hint
    if kind == "missing":
        return f"{where}: key '{dotted}' is missing", None
    if kind == "literal_error":
        known, came = error["ctx"]["expected"], str(error["input"])
        near = difflib.get_close_matches(came, re.findall(r"'([^']*)'", known), n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else None
        return f"{where}: {dotted}: expected {known}, got '{_shown(came)}'", hint
    return f"{where}: {dotted}: {_shown(error['msg'].removeprefix('Value error, '))}", None


def _known_keys(model: Any, loc: tuple[Key, ...]) -> list[str]:
    """Names of the keys that the model at `loc` knows; walks through lists, dicts and unions."""
    candidates = [model]
    for part in loc:
        following: list[Any] = []
        for candidate in candidates:
            fields = _fields(candidate)
            if part in fields:
                following.extend(_models_in(fields[str(part)].annotation))
            elif not fields:
                following.append(candidate)
        # an index, a dict key or a union's tag does not change the candidates
        candidates = following or candidates
    return sorted({field.alias or name for candidate in candidates for name, field in _fields(candidate).items()})


def _fields(candidate: Any) -> dict[str, Any]:
    return dict(candidate.model_fields) if isinstance(candidate, type) and issubclass(candidate, BaseModel) else {}


def _models_in(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]
