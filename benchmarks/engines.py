"""The engines that a project file may name: they are what the benchmarks measure."""

import importlib

from fedhe.config.project import Project
from fedhe.he.engine import Engine
from fedhe.he.keys import SecretKey
from fedhe.he.params import CkksParams


def engine_names() -> list[str]:
    """The values that `engine:` of a project file may have, in the order in which the schema names them."""
    schema = Project.model_json_schema()["properties"]["engine"]
    if "enum" in schema:
        return list(schema["enum"])
    if "const" in schema:
        return [schema["const"]]
    return str(schema["pattern"]).strip("^$()").split("|")


def make_engine(name: str, params: CkksParams, key: SecretKey) -> Engine:
    """The engine of that name: class NameEngine in fedhe/he/name_engine.py."""
    module = importlib.import_module(f"fedhe.he.{name}_engine")
    made: Engine = getattr(module, f"{name.capitalize()}Engine")(params, key)
    return made
