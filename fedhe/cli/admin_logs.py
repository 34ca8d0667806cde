"""`fedhe-admin logs`: the server's log and what sites share of theirs."""

import json
import sys
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from fedhe.cli.admin_format import nearest, printable
from fedhe.cli.admin_options import connected, find_job, warn_admin
from fedhe.cli.admin_session import AdminSession, wait_to_reconnect
from fedhe.cli.output import local_time
from fedhe.errors import NotFoundError, UnavailableError
from fedhe.wire import admin, federation
from fedhe.wire.limits import MAX_LAST_LOG_LINES

_STYLES = {"error": "red", "warning": "yellow", "debug": "dim"}


@connected
def logs(
    session: AdminSession,
    *,
    source: Annotated[str, typer.Option("--source", metavar="NAME", help="'server' or a site; default: all.")] = "",
    job: Annotated[str, typer.Option("--job", metavar="JOB", help="Only what is about this job.")] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines until Ctrl-C.")] = False,
    last: Annotated[
        int, typer.Option("--last", "-n", min=0, max=MAX_LAST_LOG_LINES, help="Lines to begin with.")
    ] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on each line.")] = False,
) -> None:
    """Show log lines of the server and of sites whose policy shares them.

    Example: fedhe-admin logs --source hospitalB --job brain_tissue --follow
    """
    if source and source != "server":
        known = [site.name for site in session.call("ListSites", admin.ListSitesRequest()).sites]
        if source not in known:
            raise NotFoundError(f"no log source '{source}'", nearest(source, ["server", *known]))
    job_id = find_job(session, job).job_id if job else ""
    console = Console(highlight=False, soft_wrap=True)
    request = admin.ReadLogRequest(source=source, job_id=job_id, follow=follow, last=last)
    for line in _lines(session, request):
        if as_json:
            sys.stdout.write(_as_json(line) + "\n")
            sys.stdout.flush()
        else:
            console.print(_as_text(line))


def _lines(session: AdminSession, request: admin.ReadLogRequest) -> Iterator[federation.LogLine]:
    """Yields the lines; where they are followed, outlives a server that restarts and catches up on what it missed.

    Each source has a clock of its own, so what was shown already is told apart by source.
    """
    failures, answered = 0, False
    shown: dict[str, float] = {}
    while True:
        before = dict(shown)
        try:
            for line in session.stream("ReadLog", request):
                failures, answered = 0, True
                if line.time > before.get(line.source, float("-inf")):
                    shown[line.source] = max(line.time, shown.get(line.source, line.time))
                    yield line
            if not request.follow:
                return
            answered = True
        except UnavailableError as error:
            if not answered or not request.follow:
                raise
            warn_admin(f"{error.message}; trying again")
        request.last = MAX_LAST_LOG_LINES
        failures += 1
        wait_to_reconnect(failures)


def _as_json(line: federation.LogLine) -> str:
    return json.dumps(
        {
            "time": line.time,
            "level": line.level,
            "source": line.source,
            "job_id": line.job_id or None,
            "message": line.message,
        }
    )


def _as_text(line: federation.LogLine) -> Text:
    level = printable(line.level)
    about = f" [{printable(line.job_id)}]" if line.job_id else ""
    return Text.assemble(
        (f"{local_time(line.time)} ", "dim"),
        (f"{level:<7} ", _STYLES.get(level, "")),
        (f"{printable(line.source)}{about}: ", "bold"),
        printable(line.message),
    )
