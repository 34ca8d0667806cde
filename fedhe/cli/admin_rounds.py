"""`fedhe-admin rounds`: what each round did, and watching a job live."""

import itertools
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import typer
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from fedhe.cli.admin_format import printable
from fedhe.cli.admin_options import JobArgument, JsonOption, connected, find_job, warn_admin
from fedhe.cli.admin_session import AdminSession, wait_to_reconnect
from fedhe.cli.admin_summary import COLUMNS, open_notes, summarise, table_rows
from fedhe.cli.admin_watch import RoundNews, changes, has_ended, json_line, picture
from fedhe.cli.output import print_json, print_table
from fedhe.errors import StateError, UnavailableError
from fedhe.rounds.state import Phase
from fedhe.trust.sealed import GroupKey
from fedhe.wire import admin

REDRAWS_PER_SECOND = 4

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="What each round did; watch a job live.")


@app.command("list")
@connected
def list_rounds(session: AdminSession, job: JobArgument, *, as_json: JsonOption = False) -> None:
    """Show a job's rounds: time, contributors, bytes, metric, whether all sites hold the same model.

    Metrics travel sealed: they show where this admin's kit holds the group key, else "sealed".

    Example: fedhe-admin rounds list brain_tissue --json
    """
    found = find_job(session, job)
    key = session.group_key()
    summary = _summary(session, found.job_id, key, warn=warn_admin)
    if as_json:
        print_json(summary)
        return
    name = summary["main_metric"] or "metric"
    print_table(
        f"rounds of job {printable(found.job_id)} ({printable(found.name)})",
        [name if column == "metric" else column for column in COLUMNS],
        table_rows(summary),
    )


@app.command()
@connected
def watch(session: AdminSession, job: JobArgument, *, as_json: JsonOption = False) -> None:
    """Watch a job until it ends: phase, deadline and each site's progress; Ctrl-C stops watching, not the job.

    On a terminal the picture redraws; otherwise a plain line is printed for each change; with --json, each change is
    one line of JSON. Ends with exit code 6 if the job failed or was aborted.

    Example: fedhe-admin rounds watch brain_tissue
    """
    found = find_job(session, job)
    if as_json:
        last = _watch_json(session, found.job_id)
    elif sys.stdout.isatty():
        last = _watch_live(session, found.job_id)
    else:
        last = _watch_plain(session, found.job_id)
    if last.job.phase != Phase.FINISHED:
        raise StateError(f"job {found.job_id} is {printable(last.job.phase)}: {printable(last.job.message)}")


def _watch_json(session: AdminSession, job_id: str) -> admin.JobDetail:
    last = admin.JobDetail()
    for last in _details(session, job_id, warn_admin):
        sys.stdout.write(json_line(last) + "\n")
        sys.stdout.flush()
    return last


def _watch_plain(session: AdminSession, job_id: str) -> admin.JobDetail:
    before = None
    news = _News(session, job_id)
    for detail in _details(session, job_id, warn_admin):
        for line in itertools.chain(news.lines(detail), changes(before, detail)):
            sys.stdout.write(f"{time.strftime('%H:%M:%S')}  {line}\n")
        sys.stdout.flush()
        before = detail
    return before or admin.JobDetail()


def _watch_live(session: AdminSession, job_id: str) -> admin.JobDetail:
    screen = _Screen()
    news = _News(session, job_id)
    with Live(get_renderable=screen.draw, refresh_per_second=REDRAWS_PER_SECOND, console=Console()) as live:
        for detail in _details(session, job_id, screen.tell):
            screen.show(detail)
            for line in news.lines(detail):
                live.console.print(Text(line))
        live.refresh()
    return screen.detail


class _Screen:
    """What the redrawing picture shows now; drawn by Live's own thread, so that the countdown runs."""

    def __init__(self) -> None:
        self.detail = admin.JobDetail()
        self._note: str | None = None

    def show(self, detail: admin.JobDetail) -> None:
        self.detail, self._note = detail, None

    def tell(self, note: str) -> None:
        self._note = note

    def draw(self) -> RenderableType:
        if not self.detail.job.job_id:
            return Text("waiting for the server")
        return picture(self.detail, time.time(), self._note)


class _News:
    """Asks for the rounds whenever a model version is new, and tells what was not told before."""

    def __init__(self, session: AdminSession, job_id: str) -> None:
        self._session, self._job_id = session, job_id
        self._key = session.group_key()
        self._told = RoundNews()
        self._seen: tuple[int, str] | None = None
        self._warned: set[str] = set()

    def lines(self, detail: admin.JobDetail) -> list[str]:
        # A version's metrics come with the READY notes of the next round, so a new phase may bring them, too.
        place = (detail.job.model_version, detail.job.phase)
        if place == self._seen:
            return []
        try:
            summary = _summary(self._session, self._job_id, self._key, warn=self._warn_once)
        except UnavailableError:
            return []  # the next change asks again; that the server is away, the stream of changes tells
        self._seen = place
        return list(self._told.lines(summary))

    def _warn_once(self, line: str) -> None:
        if line not in self._warned:
            self._warned.add(line)
            warn_admin(line)


def _summary(session: AdminSession, job_id: str, key: GroupKey | None, warn: Callable[[str], None]) -> dict[str, Any]:
    rounds = session.call("ListRounds", admin.JobRef(job_id=job_id)).rounds
    notes = open_notes(session.installation.project, job_id, rounds, key)
    for warning in notes.warnings:
        warn(warning)
    return summarise(job_id, rounds, notes, sealed=key is None, now=time.time())


def _details(session: AdminSession, job_id: str, tell: Callable[[str], None]) -> Iterator[admin.JobDetail]:
    """Yields the job's detail on each change until it has ended; outlives a server that restarts.

    A server that cannot be reached at the very beginning is an error; later it is waited for, with full-jitter
    exponential back-off, for as long as the admin watches.
    """
    failures, seen = 0, False
    while True:
        try:
            for detail in session.stream("WatchJob", admin.JobRef(job_id=job_id)):
                failures, seen = 0, True
                yield detail
                if has_ended(detail):
                    return
        except UnavailableError as error:
            if not seen:
                raise
            tell(f"{error.message}; trying again, the job goes on without us")
        failures += 1
        wait_to_reconnect(failures)
