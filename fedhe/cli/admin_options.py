"""Options that all admin commands share, and the decorator that hands a command its open session."""

import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Concatenate

import typer
from rich.console import Console
from rich.text import Text

from fedhe.cli.admin_format import nearest, printable
from fedhe.cli.admin_session import AdminSession
from fedhe.errors import ConfigError, NotFoundError
from fedhe.wire import admin

DEFAULT_HOME = Path("~/.fedhe")

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", metavar="DIR", help="Folder of what is installed on this computer. Default: ~/.fedhe"),
]
AsOption = Annotated[
    str | None,
    typer.Option("--as", metavar="NAME", help="Admin to act as, where several are installed."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
JobArgument = Annotated[
    str, typer.Argument(metavar="JOB", help="A job's id, the beginning of it, or its name.", show_default=False)
]


@dataclass(frozen=True)
class Place:
    """Where the admin's kit is and which one is meant; from the options before the command."""

    home: Path | None = None
    name: str | None = None


def connected(command: Callable[Concatenate[AdminSession, ...], None]) -> Callable[..., None]:
    """Makes a command of a function whose first parameter is an open session.

    The command gets `--home` and `--as` of its own, which win over those given before the command's name, so that
    both `fedhe-admin --home DIR status` and `fedhe-admin status --home DIR` work.
    """
    signature = inspect.signature(command, eval_str=True)

    @functools.wraps(command)
    def with_session(
        context: typer.Context, home_folder: Path | None, admin_name: str | None, **arguments: Any
    ) -> None:
        place = place_of(context, home_folder, admin_name)
        with AdminSession.open((place.home or DEFAULT_HOME).expanduser(), place.name) as session:
            command(session, **arguments)

    keyword = inspect.Parameter.KEYWORD_ONLY
    _, *own = signature.parameters.values()
    parameters = [
        inspect.Parameter("context", keyword, annotation=typer.Context),
        *(parameter.replace(kind=keyword) for parameter in own),
        inspect.Parameter("home_folder", keyword, default=None, annotation=HomeOption),
        inspect.Parameter("admin_name", keyword, default=None, annotation=AsOption),
    ]
    with_session.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # for Typer
    with_session.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del with_session.__wrapped__  # Typer would look through it to the inner signature
    return with_session


def place_of(context: typer.Context, home: Path | None, name: str | None) -> Place:
    """The command's own `--home` and `--as`, or else those given before the command."""
    outer = context.obj if isinstance(context.obj, Place) else Place()
    return Place(home or outer.home, name or outer.name)


def find_job(session: AdminSession, text: str) -> admin.Job:
    """The job whose id is `text`, begins with it, or whose name is `text`.

    Raises:
        NotFoundError: there is none.
        ConfigError: several fit.
    """
    jobs: list[admin.Job] = list(session.call("ListJobs", admin.ListJobsRequest()).jobs)
    for fits in (
        [job for job in jobs if job.job_id == text],
        [job for job in jobs if job.name == text],
        [job for job in jobs if text and job.job_id.startswith(text)],
    ):
        if len(fits) == 1:
            return fits[0]
        if fits:
            ids = ", ".join(printable(job.job_id) for job in fits)
            raise ConfigError(f"'{text}' fits {len(fits)} jobs: {ids}", "give the id")
    known = [printable(word) for job in jobs for word in (job.job_id, job.name)]
    hint = nearest(text, known) if jobs else "submit one with 'fedhe-admin jobs submit FOLDER'"
    raise NotFoundError(f"no job '{text}' on server {session.server}", hint or "see 'fedhe-admin jobs list'")


def warn_admin(line: str) -> None:
    """Prints a warning as one line to standard error."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(Text(f"warning: {line}", style="yellow"))


def confirm(question: str, *, yes: bool) -> None:
    """Asks a person to agree; `yes` agrees for them.

    Raises:
        ConfigError: standard input is not a terminal, so nobody can answer.
        typer.Abort: the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError(f"not a terminal, so nobody can be asked: {question}", "pass --yes if you mean it")
    typer.confirm(question, abort=True, err=True)
