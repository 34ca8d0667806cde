"""Shows warnings as one line each."""

import sys
import warnings
from typing import TextIO


def one_line_warnings() -> None:
    """Makes Python print `warning: message` instead of the source line that warned."""
    warnings.showwarning = _show


def _show(  # noqa: PLR0917 - Python calls it so
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    del filename, lineno, line
    kind = "warning" if category is UserWarning else category.__name__
    (file or sys.stderr).write(f"{kind}: {' '.join(str(message).split())}\n")
