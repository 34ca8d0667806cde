"""The targets are plain modules beside the program that fuzzes them: their folder is put on the path, as there."""

import sys
import tracemalloc
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))


@pytest.fixture(scope="session")
def corpus():
    """Name of each target to the inputs that are kept for it."""
    return {folder.name: sorted(folder.iterdir()) for folder in sorted((HERE / "corpus").iterdir())}


@pytest.fixture
def measured():
    """Python's memory is counted."""
    tracemalloc.start()
    yield
    tracemalloc.stop()
