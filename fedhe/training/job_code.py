"""Imports a job's own code (BYOC): modules below the job's folder or its `custom` folder, and nothing else."""

import difflib
import importlib
import sys
import traceback
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from fedhe.errors import TrainingError

FOLDERS = ("custom", ".")
"""Where modules are looked for, in this order, relative to the job's folder; `custom` is Clara Train's place."""


def find_own(path: str, mmar: Path) -> Callable[..., Any]:
    """The class or function at a dotted path such as BYOC.myNetworkArch.MyBasicUNet.

    Args:
        path: module and attribute.
        mmar: the job's folder.

    Raises:
        TrainingError: no such module or attribute, the module's import fails, or its name belongs to a library.
    """
    module_name, _, attribute = path.rpartition(".")
    source = _source(module_name, mmar)
    if source is None:
        raise TrainingError(f"no module '{module_name}' in the job's folder", _hint(module_name, path, mmar))
    module = _import(module_name, source, mmar)
    found = getattr(module, attribute, None)
    if found is None:
        near = difflib.get_close_matches(attribute, [name for name in dir(module) if name[0] != "_"], n=1, cutoff=0.5)
        raise TrainingError(
            f"module '{module_name}' has no '{attribute}'", f"did you mean '{near[0]}'?" if near else f"see {source}"
        )
    if not callable(found):
        raise TrainingError(f"'{path}': expected a class or function, got a {type(found).__name__}", f"see {source}")
    return found  # type: ignore[no-any-return]  # callable, as was just checked


def _source(module: str, mmar: Path) -> Path | None:
    relative = Path(*module.split("."))
    for folder in FOLDERS:
        for candidate in (mmar / folder / relative.with_suffix(".py"), mmar / folder / relative / "__init__.py"):
            if candidate.is_file():
                return candidate.resolve()
    return None


def _import(name: str, source: Path, mmar: Path) -> Any:
    _enter(mmar)
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        raise TrainingError(
            f"import of '{name}' failed: {type(error).__name__}: {error}{_line_in(error, mmar)}", f"see {source}"
        ) from error
    origin = getattr(module, "__file__", None)
    if origin is None or Path(origin).resolve() != source:
        raise TrainingError(
            f"module '{name}' of the job is hidden by the installed module {origin or name}", f"rename {source.name}"
        )
    return module


def _enter(mmar: Path) -> None:
    """Makes the job's folders importable, and forgets the modules of a job that this process ran before."""
    own = [str((mmar / folder).resolve()) for folder in FOLDERS]
    if sys.path[: len(own)] == own:
        return
    left = list(_entered)
    for name, module in list(sys.modules.items()):
        spec = getattr(module, "__spec__", None)
        if isinstance(spec, ModuleSpec):  # torch has modules whose every attribute is something else
            origins = [spec.origin, *(spec.submodule_search_locations or ())]
            if any(origin and Path(origin).is_relative_to(folder) for origin in origins for folder in left):
                del sys.modules[name]
    sys.path[:] = own + [entry for entry in sys.path if entry not in left]
    _entered[:] = own
    importlib.invalidate_caches()


_entered: list[str] = []  # the folders of the job that this process runs now


def _hint(module: str, path: str, mmar: Path) -> str:
    if module.partition(".")[0] in {"monai", "torch", "ignite", "torchvision"}:
        return f"'path' is for the job's own code; for the library's write \"name\": \"{path.rpartition('.')[2]}\""
    there = sorted(
        ".".join(file.relative_to(mmar / folder).with_suffix("").parts).removesuffix(".__init__")
        for folder in FOLDERS
        for file in (mmar / folder).rglob("*.py")
    )
    near = difflib.get_close_matches(module, there, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"modules there: {', '.join(there[:20]) or 'none'}"


def _line_in(error: BaseException, mmar: Path) -> str:
    """The last line of the job's code that the error passed through."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).is_relative_to(mmar.resolve()):
            return f" ({Path(frame.filename).relative_to(mmar.resolve())}:{frame.lineno})"
    return f" (line {error.lineno})" if isinstance(error, SyntaxError) and error.lineno else ""
