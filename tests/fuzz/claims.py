"""What is asked of every reader: a valid value or its documented error, and no more memory than the input warrants."""

import contextlib
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fedhe.errors import FedheError

MIB = 1024 * 1024
MAX_MESSAGE_CHARACTERS = 2000


@dataclass(frozen=True)
class Target:
    """One reader of bytes that may be hostile.

    Attributes:
        read: raises only where the reader breaks its word.
        max_bytes: longest input that the fuzzer tries.
        bytes_per_byte: memory that each byte of input may take while it is read.
        slack_bytes: memory that reading may take besides.
    """

    read: Callable[[bytes], None]
    max_bytes: int = 4096
    bytes_per_byte: int = 100
    slack_bytes: int = MIB


@contextlib.contextmanager
def refusing(*documented: type[FedheError]) -> Iterator[None]:
    """Lets the documented errors pass, and holds them to what errors.py says: one line, fit for a terminal."""
    try:
        yield
    except documented as error:
        _one_short_line(error.message)
        _one_short_line(error.hint or "")


def _one_short_line(text: str) -> None:
    assert text.isprintable(), f"not one printable line: {text!r}"
    assert len(text) <= MAX_MESSAGE_CHARACTERS, f"a line of {len(text)} characters: {text[:200]}"


def hold(target: Target, data: bytes) -> None:
    """Reads `data` and measures what that took; `tracemalloc` must be on.

    Raises:
        AssertionError: too much memory, or what the target asserts.
    """
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    target.read(data)
    _, peak = tracemalloc.get_traced_memory()
    allowed = target.slack_bytes + target.bytes_per_byte * len(data)
    assert peak - before <= allowed, f"{peak - before} bytes for an input of {len(data)}, {allowed} are allowed"
