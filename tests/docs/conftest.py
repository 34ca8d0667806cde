"""Reads the commands out of the documentation."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MARK = r"(?:<!-- *(?P<mark>[a-z ]+?)(?:: *(?P<value>[^\n]*?))? *-->\n)?"
BLOCK = re.compile(MARK + r"```console\n(?P<body>.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Command:
    """One `$ command` of a page; `mark` is what an HTML comment above its block says, e.g. background."""

    page: str
    text: str
    mark: str
    value: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text, comments=True)


def commands_of(page: Path) -> list[Command]:
    found = []
    for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
        body = block["body"].replace("\\\n", " ")
        found += [
            Command(str(page.relative_to(ROOT)), line[2:].strip(), block["mark"] or "", block["value"] or "")
            for line in body.splitlines()
            if line.startswith("$ ")
        ]
    return found


@pytest.fixture(scope="session")
def documented_commands():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    pages += [ROOT / "provision" / "README.md", *sorted((ROOT / "examples").glob("*/README.md"))]
    pages += [ROOT / "docker" / "README.md"]
    return {str(page.relative_to(ROOT)): commands_of(page) for page in pages if page.exists()}
