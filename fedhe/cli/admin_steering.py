"""`fedhe-admin jobs pause`, `jobs resume`, `jobs change`, and `fedhe-admin drain`."""

import sys
import time
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError

from fedhe.cli.admin_format import count_of, duration, printable
from fedhe.cli.admin_options import JobArgument, JsonOption, connected, find_job
from fedhe.cli.admin_session import AdminSession
from fedhe.cli.output import print_json
from fedhe.config.federation import Duration
from fedhe.errors import ConfigError
from fedhe.wire import admin

DRAIN_LOOK_SECONDS = 2.0
"""How often `drain --wait` looks."""

_DURATION: TypeAdapter[float] = TypeAdapter(Duration)


def _deadline_option(flag: str, what: str) -> Any:
    return typer.Option(flag, metavar="DURATION", help=f"{what}, such as 90s, 30m, 2h or 1d.", show_default=False)


@connected
def pause(
    session: AdminSession,
    job: JobArgument,
    *,
    reason: Annotated[str, typer.Option("--reason", help="Told to the sites and shown with the job.")] = "",
    after_round: Annotated[
        bool, typer.Option("--after-round", help="Let the round under way end, and pause when the next one begins.")
    ] = False,
) -> None:
    """Pause a running job: sites get no new work and no deadline comes nearer until `jobs resume`.

    What is under way is kept: a site that trains goes on to the end of its training, chunks that were sent stay. A
    pause survives a restart of the server. Needs role lead.

    Example: fedhe-admin jobs pause brain_tissue --reason "scanner upgrade at two sites"
    """
    found = find_job(session, job)
    session.call("PauseJob", admin.PauseJobRequest(job_id=found.job_id, reason=reason, after_round=after_round))
    typer.echo(f"job {found.job_id} {'pauses when its next round begins' if after_round else 'is paused'}")
    typer.echo(f"next: fedhe-admin jobs resume {found.job_id}")


@connected
def resume(session: AdminSession, job: JobArgument) -> None:
    """Have a paused job go on where it was; its deadlines move by the length of the pause.

    Needs role lead.

    Example: fedhe-admin jobs resume brain_tissue
    """
    found = find_job(session, job)
    session.call("ResumeJob", admin.JobRef(job_id=found.job_id))
    typer.echo(f"job {found.job_id} goes on")


@connected
def change(
    session: AdminSession,
    job: JobArgument,
    *,
    rounds: Annotated[
        int | None,
        typer.Option("--rounds", metavar="N", min=1, help="Rounds in all; at most as many as were submitted."),
    ] = None,
    train_deadline: Annotated[
        str | None, _deadline_option("--train-deadline", "Longest wait for a site to train")
    ] = None,
    upload_deadline: Annotated[str | None, _deadline_option("--upload-deadline", "Longest wait for uploads")] = None,
    apply_deadline: Annotated[
        str | None, _deadline_option("--apply-deadline", "Longest wait for sites to apply the sum")
    ] = None,
) -> None:
    """Change how a job goes on: its number of rounds, its deadlines; the one that runs now moves along.

    There are never fewer rounds than were begun, and never more than the signed job has, which is what its sites
    accepted. Everything else of a job is settled when it is submitted. Needs role lead.

    Example: fedhe-admin jobs change brain_tissue --rounds 8 --upload-deadline 12h
    """
    deadlines = {
        "train_deadline": _seconds("--train-deadline", train_deadline),
        "upload_deadline": _seconds("--upload-deadline", upload_deadline),
        "apply_deadline": _seconds("--apply-deadline", apply_deadline),
    }
    given = {name: seconds for name, seconds in deadlines.items() if seconds is not None}
    if rounds is None and not given:
        raise ConfigError("nothing to change", "give --rounds, --train-deadline, --upload-deadline or --apply-deadline")
    found = find_job(session, job)
    session.call("ChangeJob", admin.ChangeJobRequest(job_id=found.job_id, rounds=rounds, **given))
    said = [] if rounds is None else [f"rounds {rounds}"]
    said += [f"{name.replace('_', ' ')} {duration(seconds)}" for name, seconds in given.items()]
    typer.echo(f"job {found.job_id}: {', '.join(said)}")


def _seconds(flag: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return _DURATION.validate_python(text if not text.strip().isdecimal() else int(text))
    except ValidationError as error:
        raise ConfigError(f"{flag}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from error


@connected
def drain(
    session: AdminSession,
    *,
    off: Annotated[bool, typer.Option("--off", help="End it: jobs go on and may start again.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the server may be stopped.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Prepare the server for maintenance: rounds under way end, no new ones begin and no job starts.

    Tells whether the server may be stopped without breaking off a round; ask again, or wait with --wait. It lasts until
    `drain --off`, over a restart of the server too. Stopping without draining loses nothing either: rounds go on where
    they were. Needs role lead.

    Example: fedhe-admin drain --wait && fedhe-admin shutdown --yes
    """
    session.call("SetDrain", admin.SetDrainRequest(on=not off))
    state: admin.ServerStatus = session.call("GetStatus", admin.GetStatusRequest())
    told = None
    while wait and state.draining and state.jobs_busy:
        if state.jobs_busy != told and sys.stderr.isatty():
            typer.echo(f"waiting for {count_of(state.jobs_busy, 'job')} to end a round", err=True)
        told = state.jobs_busy
        time.sleep(DRAIN_LOOK_SECONDS)
        state = session.call("GetStatus", admin.GetStatusRequest())
    drained = state.draining and state.jobs_busy == 0
    if as_json:
        print_json({"draining": state.draining, "jobs_busy": state.jobs_busy, "may_be_stopped": drained})
    elif not state.draining:
        typer.echo(f"server {printable(session.server)} is not drained; its jobs go on")
    elif drained:
        typer.echo(f"server {printable(session.server)} is drained and may be stopped: fedhe-admin shutdown")
        typer.echo("afterwards: fedhe-admin drain --off")
    else:
        typer.echo(
            f"server {printable(session.server)} drains: {count_of(state.jobs_busy, 'job')} still in a round; "
            "look again with: fedhe-admin drain"
        )
