"""Reads Dockerfiles, and finds out which packages an installation of fedhe brings along."""

import re
import shlex
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def root():
    return ROOT


@pytest.fixture(scope="session")
def instructions():
    """Turns a Dockerfile's name into its instructions: (keyword, rest) with continued lines joined."""

    def read(name):
        text = (ROOT / "docker" / name).read_text()
        joined = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", text))
        return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]

    return read


@pytest.fixture(scope="session")
def copied():
    """Paths that a Dockerfile copies out of the repository."""

    def sources(lines):
        found = []
        for keyword, rest in lines:
            words = shlex.split(rest)
            if keyword == "COPY" and not words[0].startswith("--from"):
                found += words[:-1]
        return found

    return sources


@pytest.fixture(scope="session")
def distributions():
    """Names of all packages that `pip install fedhe[extras]` installs, by their own statements."""

    def closure(*extras):
        found = set()
        left = [("fedhe", frozenset(extras))]
        while left:
            name, wanted = left.pop()
            name = re.sub(r"[-_.]+", "-", name).lower()
            if (name, wanted) in found:
                continue
            found.add((name, wanted))
            for line in metadata.requires(name) or []:
                requirement = Requirement(line)
                if requirement.marker is None or any(
                    requirement.marker.evaluate({"extra": extra}) for extra in ("", *wanted)
                ):
                    left.append((requirement.name, frozenset(requirement.extras)))
        return {name for name, _ in found}

    return closure
