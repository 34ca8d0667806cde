"""The training process: `python -m fedhe.training.process REQUEST.json`; no keys, no network.

Standard output carries one JSON object per line and nothing else; whatever the job's code prints goes to standard
error. Ends with 0, or with the error's exit code after a last line `error: ...` on standard error.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from fedhe.config.trainer import read_request, write_result
from fedhe.errors import ConfigError, FedheError, ResourceError

BUG = 1
"""Exit code for what no one foresaw."""


def main(arguments: Sequence[str]) -> int:
    """Performs the request in the file that is named by the only argument; returns the exit code."""
    events = _own_standard_output()
    if len(arguments) != 1:
        return _fail(f"expected one argument, the path of a request, got {len(arguments)}", ConfigError.exit_code)
    try:
        _perform(Path(arguments[0]), events)
    except FedheError as error:
        return _fail(error.message + (f"; {error.hint}" if error.hint else ""), error.exit_code)
    except Exception as error:  # noqa: BLE001 - told with its traceback; the job's code may raise anything anywhere
        traceback.print_exc()
        return _fail(f"unexpected {type(error).__name__}: {next(iter(str(error).splitlines()), '')}", BUG)
    return 0


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"error: {message}\n")
    sys.stderr.flush()
    return code


def _perform(path: Path, events: TextIO) -> None:
    request = read_request(path)
    # After the request was read: torch and MONAI take seconds to import.
    from fedhe.training.progress import Report  # noqa: PLC0415 - see above
    from fedhe.training.tasks import run_task  # noqa: PLC0415 - see above
    from fedhe.training.warn import one_line_warnings  # noqa: PLC0415 - see above

    one_line_warnings()

    def tell(report: Report) -> None:
        try:
            events.write(json.dumps(report.to_event()) + "\n")
            events.flush()
        except BrokenPipeError:  # nobody listens any more; the work is still worth ending
            return

    try:
        request.output.mkdir(parents=True, exist_ok=True)
        result = run_task(request, tell, time.monotonic)
        write_result(result, request.output)
    except OSError as error:
        raise ResourceError(f"{error.filename or request.output}: {error.strerror or error}") from error


def _own_standard_output() -> TextIO:
    """Takes standard output for events, and sends what anybody else writes there to standard error."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return events


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
