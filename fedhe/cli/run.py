"""Runs a Typer app so that every error is one line and an exit code, never a traceback."""

import errno
import os
import sys
from pathlib import Path
from typing import NoReturn

import typer
from rich.console import Console
from rich.text import Text

from fedhe.errors import ConfigError, FedheError, ResourceError

EXIT_CODES_HELP = (
    "Exit codes: 0 done, 1 bug in fedhe, 2 wrong file or argument, 3 certificate, key, kit or role not trusted, "
    "4 protocol violated by the other side, 5 other side unreachable, 6 wrong state or not found, "
    "7 disk, port or memory lacking, 8 refused by site policy, 9 job code or training failed, 130 interrupted."
)

# fedhe turns its own into errors of its own, with the file's name; what is left is standard output.
_OUTPUT_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})


def run(app: typer.Typer) -> NoReturn:
    """Runs `app` on the command line's arguments and exits with the documented code."""
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
    except OSError as error:
        if error.errno not in _OUTPUT_ERRORS:
            raise
        # What is still buffered would fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        report(ResourceError(f"the output cannot be written: {error.strerror}", "mend that and run it again"))
        sys.exit(ResourceError.exit_code)
    except FedheError as error:
        report(error)
        sys.exit(error.exit_code)
    except typer.TyperException as error:
        message = error.format_message()
        if message:  # nothing where no arguments were given: the help was shown instead
            program = Path(sys.argv[0]).name
            report(ConfigError(message.rstrip("."), f"see '{program} --help'"))
        sys.exit(ConfigError.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        Console(stderr=True).print("interrupted")
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def report(error: FedheError) -> None:
    """Prints an error as one line, with what to do next behind it, to standard error."""
    text = Text("error: ", style="bold red")
    text.append(error.message, style="default not bold")
    if error.hint:
        text.append(f"; {error.hint}", style="default not bold")
    Console(stderr=True, soft_wrap=True, highlight=False).print(text)
