"""Finds a section's cases: Decathlon lists, shares of them, folds of them; an empty folder is one clear error."""

import json
import os
import random
from pathlib import Path
from typing import Any

from fedhe.config.document import MAX_DOCUMENT_BYTES
from fedhe.config.mmar_schema import DataList
from fedhe.config.mmar_variables import hint
from fedhe.errors import TrainingError
from fedhe.training.components import Builder, Place

MAX_LIST_BYTES = 64 * MAX_DOCUMENT_BYTES
MAX_CASES = 10_000_000

Case = dict[str, Any]


def find_cases(builder: Builder, data: DataList, key: Place) -> list[Case]:
    """The cases that a data list names, with absolute paths.

    Args:
        builder: of the section.
        data: where they are.
        key: place of the list in the configuration.

    Raises:
        TrainingError: no folder, no file, no list of that key, missing images, or nothing left; with the place.
    """
    place = builder.mmar.place(key)
    if data.path is not None:
        cases = builder.build(data, key, "nested")
    else:
        cases = _decathlon(builder.mmar.folder, data, place)
    cases = _checked(cases, place)
    if not (found := len(cases)):
        raise TrainingError(f"{place}: {data.path} found no cases at this site", _SITE_HINT)
    if data.part is not None:
        cases = _deal(cases, data.part.of, (data.part.index,), data.part.seed)
    if data.split is not None:
        cases = _deal(cases, data.split.folds, data.split.use, data.split.seed)
    cases = cases[: data.limit]
    if not cases:
        raise TrainingError(f"{place}: no case left of {found} after part and split", "use fewer parts or folds")
    missing = [path for case in cases for path in _paths(case) if not Path(path).exists()]
    if missing:
        raise TrainingError(
            f"{place}: {len(missing)} of the files of {len(cases)} cases are missing, the first is {missing[0]}",
            "check DATA_ROOT and base_dir",
        )
    return cases


def _decathlon(mmar: Path, data: DataList, place: str) -> list[Any]:
    file = mmar / str(data.file)
    base = mmar / data.base_dir if data.base_dir is not None else file.parent
    for folder in dict.fromkeys((file.parent, base)):
        if not folder.is_dir():
            raise TrainingError(f"{place}: the data folder {folder} does not exist", _SITE_HINT)
        if not any(folder.iterdir()):
            raise TrainingError(f"{place}: the data folder {folder} is empty", _SITE_HINT)
    if not file.is_file():
        near = hint(file.name, [path.name for path in file.parent.glob("*.json")], noun="lists")
        raise TrainingError(f"{place}: there is no {file.name} in {file.parent}", near)
    if (size := file.stat().st_size) > MAX_LIST_BYTES:
        raise TrainingError(f"{file}: expected at most {MAX_LIST_BYTES} bytes, got {size}")
    try:
        lists = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TrainingError(f"{file}: not JSON: {error}") from error
    if not isinstance(lists, dict) or not isinstance(lists.get(data.key), list):
        known = [k for k, v in lists.items() if isinstance(v, list)] if isinstance(lists, dict) else []
        raise TrainingError(f"{place}: {file} has no list '{data.key}'", hint(data.key, known, noun="lists"))
    if not lists[data.key]:
        raise TrainingError(f"{place}: the list '{data.key}' in {file} is empty", _SITE_HINT)
    # A "test" list of the Decathlon holds bare paths of images.
    return [_absolute({"image": case} if isinstance(case, str) else case, base) for case in lists[data.key]]


_SITE_HINT = (
    "set data_root in the site's policy.yml, or DATA_ROOT in environment.json, to the folder with this site's images"
)


def _absolute(case: Any, base: Path) -> Any:
    """Image and label paths, and other texts that name a file, made absolute; all else as it is."""
    if not isinstance(case, dict):
        return case

    def one(name: str, value: Any) -> Any:
        if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
            return [one(name, item) for item in value]
        if isinstance(value, str):
            path = os.path.normpath(base / value)
            return path if name in _FILES or Path(path).exists() else value
        return value

    return {name: one(name, value) for name, value in case.items()}


_FILES = ("image", "label")


def _paths(case: Case) -> list[str]:
    values = [case[name] for name in _FILES if name in case]
    flat = [item for value in values for item in (value if isinstance(value, list) else [value])]
    return [item for item in flat if isinstance(item, (str, Path)) and Path(item).is_absolute()]  # type: ignore[misc]


def _checked(cases: Any, place: str) -> list[Case]:
    if not isinstance(cases, (list, tuple)):
        raise TrainingError(f"{place}: expected a list of cases, got a {type(cases).__name__}")
    if len(cases) > MAX_CASES:
        raise TrainingError(f"{place}: expected at most {MAX_CASES} cases, got {len(cases)}")
    for index, case in enumerate(cases):
        if not isinstance(case, dict) or "image" not in case:
            raise TrainingError(
                f"{place}: case {index}: expected {{'image': ..., 'label': ...}}, got {str(case)[:200]}"
            )
    return list(cases)


def _deal(cases: list[Case], shares: int, use: tuple[int, ...], seed: int) -> list[Case]:
    """Shuffles, deals the cases out like cards, and returns the shares that are used in their original order."""
    order = list(range(len(cases)))
    random.Random(seed).shuffle(order)  # noqa: S311  # a split that all sites can repeat, no secret
    mine = sorted(position for share in use for position in order[share::shares])
    return [cases[position] for position in mine]
