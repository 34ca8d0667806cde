"""Builds components of a configuration; what is wrong with one is told with its place in the file."""

import inspect
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from fedhe.config.document import Key
from fedhe.config.mmar import Mmar
from fedhe.config.mmar_schema import Component, DataList, TransformComponent
from fedhe.config.mmar_variables import OBJECTS, hint
from fedhe.errors import FedheError, TrainingError
from fedhe.training.catalogue import Kind, find
from fedhe.training.job_code import find_own

Place = tuple[Key, ...]

# MONAI imports and calls whatever a dotted text under these arguments names, os.system too.
_IMPORTED_BY_MONAI = frozenset({"reader", "writer", "merger_cls"})


@dataclass
class Builder:
    """Builds the components of one section and remembers the objects that `@name` refers to.

    Attributes:
        mmar: the job.
        section: `train` or `validate`.
        objects: what was built so far, by the name after `@`.
    """

    mmar: Mmar
    section: str
    objects: dict[str, Any] = field(default_factory=dict)

    def build(
        self,
        component: Component | TransformComponent | DataList,
        key: Place,
        kind: Kind,
        *,
        given: Mapping[str, Any] | None = None,
        defaults: Mapping[str, Any] | None = None,
    ) -> Any:
        """Builds one component.

        Args:
            component: its class and arguments.
            key: its place in the configuration.
            kind: where its name is looked up.
            given: arguments that fedhe sets; the configuration must leave them out.
            defaults: arguments for what the configuration leaves out, where the class takes them.

        Raises:
            TrainingError: unknown name or path, wrong argument, or the class refused; with the place.
        """
        target = self._target(component.name, component.path, key, kind)
        label = str(component.name or component.path)
        args = {name: self.resolve(value, (*key, "args", name)) for name, value in component.args.items()}
        return self._call(target, label, args, key, given=given or {}, defaults=defaults or {})

    def parameters(self, component: Component, key: Place, kind: Kind) -> frozenset[str]:
        """Names of the arguments that a component's class takes."""
        return frozenset(_parameters(self._target(component.name, component.path, key, kind)))

    def resolve(self, value: Any, key: Place) -> Any:
        """An argument's value: `@name` to the object, a nested component to what it builds, all else as it is."""
        if isinstance(value, list):
            return [self.resolve(item, (*key, index)) for index, item in enumerate(value)]
        if isinstance(value, dict):
            if "args" in value and value.keys() <= {"name", "path", "args", "disabled"}:
                return self._nested(value, key)
            return {name: self.resolve(item, (*key, name)) for name, item in value.items()}
        if isinstance(value, str) and value.startswith("@") and value[1:] in OBJECTS:
            if value[1:] not in self.objects:
                raise TrainingError(
                    f"{self.mmar.place(key)}: there is no {value} yet", hint(value[1:], self.objects, noun="objects")
                )
            return self.objects[value[1:]]
        if isinstance(value, str) and value.startswith(("$", "lambda ", "lambda:")):
            raise TrainingError(
                f"{self.mmar.place(key)}: expected a value, got the expression '{value}'",
                "a configuration holds no code: leave it out, or write a class of your own and give its 'path'",
            )
        argument = next((part for part in reversed(key) if isinstance(part, str)), "")
        if isinstance(value, str) and "." in value and argument in _IMPORTED_BY_MONAI:
            raise TrainingError(
                f"{self.mmar.place(key)}: expected the name of a MONAI class, got '{value}'",
                'for a class of your own write {"path": ..., "args": {...}}',
            )
        return value

    def _nested(self, value: dict[str, Any], key: Place) -> Any:
        try:
            component = Component.model_validate(value)
        except ValidationError as error:
            message = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise TrainingError(f"{self.mmar.place(key)}: {message}") from error
        return None if component.disabled else self.build(component, key, "nested")

    def _target(self, name: str | None, path: str | None, key: Place, kind: Kind) -> Callable[..., Any]:
        try:
            return find_own(path, self.mmar.folder) if path is not None else find(str(name), kind)
        except TrainingError as error:
            place = self.mmar.place((*key, "path" if path is not None else "name"))
            raise TrainingError(f"{place}: {error.message}", error.hint) from error

    def _call(
        self,
        target: Callable[..., Any],
        label: str,
        args: dict[str, Any],
        key: Place,
        *,
        given: Mapping[str, Any],
        defaults: Mapping[str, Any],
    ) -> Any:
        parameters = _parameters(target)
        takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
        known = [name for name, p in parameters.items() if p.kind not in _STARRED]
        for name in args:
            place = self.mmar.place((*key, "args", name))
            if name in given:
                raise TrainingError(f"{place}: {label} gets '{name}' from fedhe", "leave it out")
            if parameters and name not in known and not takes_any:
                raise TrainingError(f"{place}: {label} takes no argument '{name}'", hint(name, known, noun="arguments"))
        args = {**{name: value for name, value in defaults.items() if name in known}, **args, **given}
        missing = [n for n in known if n not in args and parameters[n].default is inspect.Parameter.empty]
        if missing:
            raise TrainingError(
                f"{self.mmar.place((*key, 'args'))}: {label} needs {' and '.join(map(repr, missing))}",
                f"it takes {', '.join(n for n in known if n not in given)}",
            )
        try:
            return target(**args)
        except FedheError:
            raise
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            raise TrainingError(f"{self.mmar.place(key)}: {label}: {said(error)}") from error


_STARRED = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


def said(error: BaseException) -> str:
    """Type and first line of an exception and, where it only wraps another, of the one at the root."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None and cause not in chain:
        chain.append(cause)
    lines = [f"{type(e).__name__}: {next(iter(str(e).strip().splitlines()), '')}"[:500] for e in (chain[0], chain[-1])]
    return lines[0] if len(chain) == 1 else f"{lines[0]} ({lines[1]})"


def _parameters(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(target).parameters)
    except (TypeError, ValueError):  # a class written in C that tells no signature: it checks its arguments itself
        return {}
