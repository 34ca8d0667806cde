"""Reads an MMAR, a job's folder: training configuration, per-site values and changes, to one checked configuration.

Variables, from weak to strong: what fedhe sets (MMAR_ROOT, MMAR_CKPT_DIR), keys at the top of config_train.json,
environment.json, `--set`, and the site's own values.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedhe.config.document import Document, Key, load_document, validate
from fedhe.config.mmar_schema import MmarConfig
from fedhe.config.mmar_variables import change, dotted, hint, names_in, put_in, split_settings
from fedhe.errors import ConfigError

CONFIG = "config/config_train.json"
ENVIRONMENT = "config/environment.json"
MAX_VARIABLE_CHARACTERS = 32_768

_KEYS = frozenset(info.alias or name for name, info in MmarConfig.model_fields.items())
_RUN_KEYS = _KEYS - {"train", "validate"}


@dataclass(frozen=True)
class Mmar:
    """A checked job folder.

    Attributes:
        folder: of the job, absolute.
        config: with all variables put in.
        document: the configuration's file, for places in errors.
        variables: what was put in, by name.
    """

    folder: Path
    config: MmarConfig
    document: Document = field(repr=False)
    variables: dict[str, Any] = field(repr=False)

    def place(self, key: tuple[Key, ...]) -> str:
        """`file:line: dotted.key` of a part of the configuration."""
        return f"{self.document.where(key)}: {dotted(key)}"


def check_mmar(mmar: Path) -> MmarConfig:
    """Checks a job folder's configuration as far as that goes without torch, with the job's own per-site values.

    DATA_ROOT may be missing from them: each site's policy gives it.

    Raises:
        ConfigError: the first thing that is wrong, with file, line and, for a wrong word, the nearest known one.
    """
    return load_mmar(mmar, defaults={"DATA_ROOT": "DATA_ROOT"}).config


def load_mmar(
    mmar: Path,
    *,
    config: str = CONFIG,
    environment: str = ENVIRONMENT,
    overrides: Mapping[str, Any] | None = None,
    settings: Iterable[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> Mmar:
    """Reads a job folder.

    Args:
        mmar: the folder.
        config: training configuration, relative to the folder or to its `config` folder.
        environment: per-site values, found likewise; the default file may be missing.
        overrides: the site's values; they win over all others.
        settings: `key=value` changes; a key is a variable, a key at the top of the configuration, or a dotted place
            in it such as train.optimizer.args.lr.
        defaults: variables that the caller sets, such as MMAR_CKPT_DIR.

    Raises:
        ConfigError: the first thing that is wrong, with file, line and, for a wrong word, the nearest known one.
    """
    folder = mmar.absolute()
    if not folder.is_dir():
        raise ConfigError(f"{mmar}: expected a folder with {CONFIG}, got {'a file' if mmar.exists() else 'nothing'}")
    document = _load(folder, config)
    data = _mapping(document)
    local = _environment(folder, environment)
    values: dict[str, Any] = local.data
    site = dict(overrides or {})
    extra = {name: value for name, value in data.items() if name not in _KEYS}
    variables: dict[str, Any] = {
        "MMAR_ROOT": str(folder), "MMAR_CKPT_DIR": "models", **(defaults or {}),
        **{name: data.get(name, _default(name)) for name in _RUN_KEYS}, **extra, **values,
    }  # fmt: skip
    sections: dict[str, Any] = {name: data[name] for name in ("train", "validate") if name in data}
    for key, value in split_settings(settings):
        if "." in key:
            sections = change(sections, key, value)
        elif key in sections or key not in variables:
            raise ConfigError(
                f"--set {key}: no variable or top-level key of that name",
                hint(key, variables, noun="variables")
                + "; inside the sections write for example train.optimizer.args.lr",
            )
        else:
            variables[key] = value
    variables |= site
    # A variable may be made of others: "DATASET_JSON": "{DATA_ROOT}/dataset.json".
    variables = _settle(document, local, variables)
    filled = put_in(document, sections, variables)
    mentioned = names_in(data) | names_in(values)
    for name in extra:
        if name not in mentioned:
            raise ConfigError(f"{document.where((name,))}: unknown key '{name}'", _hint_for_key(name))
    filled |= {name: variables[name] for name in _RUN_KEYS if name in data or variables[name] != _default(name)}
    checked = validate(MmarConfig, Document(document.path, filled, document.lines))
    _check_refs(document, checked)
    return Mmar(folder, checked, document, variables)


def _load(folder: Path, name: str) -> Document:
    for place in (folder / name, folder / "config" / name):
        if place.is_file():
            return load_document(place)
    near = sorted(path.name for path in (folder / "config").glob("*.json"))
    raise ConfigError(f"{folder / name}: No such file", hint(Path(name).name, near, noun="files") if near else None)


def _mapping(document: Document) -> dict[str, Any]:
    if not isinstance(document.data, dict):
        raise ConfigError(
            f"{document.path}:1: expected keys with values, got a {type(document.data).__name__}",
            "a configuration starts with {",
        )
    return {str(name): value for name, value in document.data.items()}


def _environment(folder: Path, name: str) -> Document:
    if name == ENVIRONMENT and not (folder / name).exists():
        return Document(folder / name, {}, {})
    document = _load(folder, name)
    values = _mapping(document)
    for key, value in values.items():
        if isinstance(value, dict) or not key.isidentifier() or key in {"train", "validate"}:
            raise ConfigError(
                f"{document.where((key,))}: expected a name with a text, number or list, got '{key}' with "
                f"a {type(value).__name__}"
            )
    return document


def _default(name: str) -> Any:
    info = next(info for field_, info in MmarConfig.model_fields.items() if (info.alias or field_) == name)
    return info.default


def _settle(document: Document, local: Document, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Puts variables into variables, each once; a circle is an error."""
    done: dict[str, Any] = {}

    def settle(name: str, above: tuple[str, ...]) -> Any:
        source = local if (name,) in local.lines else document
        if name in above:
            raise ConfigError(
                f"{source.where((name,))}: variables refer to each other in a circle: {' -> '.join((*above, name))}",
                "give one of them a value of its own",
            )
        if name not in done:
            value = variables[name]
            for inner in sorted(names_in(value)):
                if inner in variables:
                    settle(inner, (*above, name))
            done[name] = put_in(source, value, done, (name,)) if isinstance(value, str) else value
            if isinstance(done[name], str) and len(done[name]) > MAX_VARIABLE_CHARACTERS:
                raise ConfigError(f"variable {name}: expected at most {MAX_VARIABLE_CHARACTERS} characters, got more")
        return done[name]

    for name in variables:
        settle(name, ())
    return done


def _check_refs(document: Document, config: MmarConfig) -> None:
    """Makes sure that each `ref` of `validate` names a step of `train`."""
    if config.validate_ is None:
        return
    known = [step.label for step in (*config.train.pre_transforms, *config.train.post_transforms)]
    for chain in ("pre_transforms", "post_transforms"):
        for index, step in enumerate(getattr(config.validate_, chain)):
            if step.ref is not None and step.ref not in known:
                key = ("validate", chain, index, "ref")
                raise ConfigError(
                    f"{document.where(key)}: {dotted(key)}: train has no step '{step.ref}'",
                    hint(step.ref, known, noun="steps"),
                )


def _hint_for_key(name: str) -> str:
    return hint(name, _KEYS, noun="keys") + f"; a variable of your own is used as {{{name}}} somewhere below"
