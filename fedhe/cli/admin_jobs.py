"""`fedhe-admin jobs`: submit, list, show, start, abort, delete; what steers a running job is in admin_steering.py."""

from pathlib import Path
from typing import Annotated

import typer

from fedhe.cli.admin_format import duration, listed, percent, printable, size
from fedhe.cli.admin_options import JobArgument, JsonOption, YesOption, confirm, connected, find_job
from fedhe.cli.admin_session import SUBMIT_SECONDS, AdminSession
from fedhe.cli.admin_watch import deadlines_of, detail_json, pause_json, phase_words
from fedhe.cli.output import local_time, print_json, print_listing, print_table
from fedhe.config.job_archive import JobArchive, pack_job, read_job
from fedhe.config.mmar import check_mmar
from fedhe.trust.signatures import JOB_LABEL, sign
from fedhe.wire import admin
from fedhe.wire.messages import job_pieces

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="markdown", help="Submit, look at, start, steer, abort and delete jobs."
)

FolderArgument = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="MMAR folder with config/config_fed.yml.", show_default=False)
]


@app.command()
@connected
def submit(
    session: AdminSession,
    folder: FolderArgument,
    *,
    start: Annotated[bool, typer.Option("--start", help="Start the job at once.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check, pack, sign and send a job folder; prints the job's id and the hash that sites approve.

    Needs role lead. Look at the packed job without sending it: fedhe-admin jobs check FOLDER

    Example: fedhe-admin jobs submit examples/brain_tissue --start
    """
    archive, job = _packed(folder)
    request = admin.SubmitJobRequest(
        archive=archive,
        signature=sign(JOB_LABEL, archive, session.installation.signing_key),
        certificate=session.installation.certificate_der,
        start=start,
    )
    reply = session.call("SubmitJob", job_pieces(request), seconds=SUBMIT_SECONDS)
    if as_json:
        print_json({"job_id": reply.job_id, "name": job.name, "archive_digest": job.digest.hex(), "started": start})
        return
    typer.echo(f"job {reply.job_id} ({job.name}) is {'started' if start else 'submitted'}")
    typer.echo(f"hash for the sites' approval: {job.digest.hex()}")
    follow = "rounds watch" if start else "jobs start"
    typer.echo(f"next: fedhe-admin {follow} {reply.job_id}")


@app.command()
def check(folder: FolderArgument, *, as_json: JsonOption = False) -> None:
    """Check and pack a job folder here, without a server: files, hash, rounds.

    Example: fedhe-admin jobs check examples/brain_tissue
    """
    archive, job = _packed(folder)
    federation = job.federation
    if as_json:
        print_json(
            {
                "name": job.name,
                "archive_digest": job.digest.hex(),
                "archive_bytes": len(archive),
                "rounds": federation.rounds,
                "min_sites": federation.min_sites,
                "files": {name: len(data) for name, data in job.files.items()},
            }
        )
        return
    print_table(
        f"job {job.name}: {federation.rounds} rounds, at least {federation.min_sites} sites, {size(len(archive))}",
        ["file", "size"],
        [[name, size(len(data))] for name, data in job.files.items()],
    )
    typer.echo(f"hash for the sites' approval: {job.digest.hex()}")


def _packed(folder: Path) -> tuple[bytes, JobArchive]:
    """Packs a job folder whose configurations are both well-formed: what its sites would refuse is not sent.

    Raises:
        ConfigError: as `pack_job` and `check_mmar`.
    """
    archive = pack_job(folder)
    check_mmar(folder)
    return archive, read_job(archive)


@app.command("list")
@connected
def list_jobs(session: AdminSession, *, as_json: JsonOption = False) -> None:
    """Show all jobs on the server.

    Example: fedhe-admin jobs list --json
    """
    jobs = session.call("ListJobs", admin.ListJobsRequest()).jobs
    if as_json:
        print_json(
            [
                {
                    "job_id": job.job_id,
                    "name": job.name,
                    "submitted_by": job.submitted_by,
                    "submitted_at": job.submitted_at or None,
                    "phase": job.phase,
                    "round": job.round,
                    "rounds": job.rounds,
                    "model_version": job.model_version,
                    "message": job.message,
                    "ended_at": job.ended_at or None,
                    **pause_json(job),
                }
                for job in jobs
            ]
        )
        return
    rows = [
        {
            "job": printable(job.job_id),
            "name": printable(job.name),
            "phase": phase_words(job),
            "round": f"{job.round}/{job.rounds}",
            "by": printable(job.submitted_by),
            "submitted": local_time(job.submitted_at),
            "ended": local_time(job.ended_at),
            "message": printable(job.pause_reason or job.message) or None,
        }
        for job in jobs
    ]
    print_listing("jobs", rows, ["job", "name", "phase", "round", "by", "submitted", "ended", "message"], as_json=False)


@app.command()
@connected
def show(session: AdminSession, job: JobArgument, *, as_json: JsonOption = False) -> None:
    """Show one job: phase, deadline, each site's progress, stored checkpoints.

    Example: fedhe-admin jobs show brain_tissue
    """
    found = find_job(session, job)
    detail = session.call("ShowJob", admin.JobRef(job_id=found.job_id))
    if as_json:
        print_json(detail_json(detail))
        return
    head = detail.job
    facts = [
        ("job", printable(head.job_id)),
        ("name", printable(head.name)),
        ("phase", phase_words(head)),
        ("paused since", local_time(head.paused_at)),
        ("pause", printable(head.pause_reason) or None),
        ("message", printable(head.message) or None),
        ("round", f"{head.round} of {head.rounds}" + (f", attempt {detail.attempt}" if detail.attempt > 1 else "")),
        ("deadline", "stands still" if head.paused_at else local_time(detail.deadline)),
        ("longest training, upload, apply", listed(duration(seconds) for seconds in deadlines_of(detail).values())),
        ("model version", head.model_version),
        ("checkpoints", listed(str(version) for version in detail.checkpoints)),
        ("minimum of sites", detail.min_sites),
        ("hash", printable(detail.archive_digest)),
        ("submitted", f"{local_time(head.submitted_at)} by {printable(head.submitted_by)}"),
        ("ended", local_time(head.ended_at)),
    ]
    print_table(f"job {printable(head.job_id)}", ["", ""], facts)
    print_table(
        "sites",
        ["site", "online", "state", "done", "model version", "detail"],
        [
            [
                printable(site.site),
                "yes" if site.online else "no",
                printable(site.state),
                percent(site.fraction),
                None if site.model_version < 0 else site.model_version,
                printable(site.detail) or None,
            ]
            for site in detail.sites
        ],
    )


@app.command()
@connected
def start(session: AdminSession, job: JobArgument) -> None:
    """Start a submitted job.

    Needs role lead.

    Example: fedhe-admin jobs start brain_tissue
    """
    found = find_job(session, job)
    session.call("StartJob", admin.JobRef(job_id=found.job_id))
    typer.echo(f"job {found.job_id} is started")
    typer.echo(f"next: fedhe-admin rounds watch {found.job_id}")


@app.command()
@connected
def abort(
    session: AdminSession,
    job: JobArgument,
    *,
    reason: Annotated[str, typer.Option("--reason", help="Told to the sites and kept with the job.")] = "",
    yes: YesOption = False,
) -> None:
    """End a job before its last round; its checkpoints stay. It cannot be taken up again.

    Needs role lead.

    Example: fedhe-admin jobs abort brain_tissue --reason "wrong learning rate"
    """
    found = find_job(session, job)
    confirm(f"Abort job {found.job_id} ({printable(found.name)}) in round {found.round} of {found.rounds}?", yes=yes)
    session.call("AbortJob", admin.AbortJobRequest(job_id=found.job_id, reason=reason))
    typer.echo(f"job {found.job_id} is aborted")


@app.command()
@connected
def delete(session: AdminSession, job: JobArgument, *, yes: YesOption = False) -> None:
    """Delete a job that is not running, with its sums and checkpoints, from the server.

    Needs role lead. Download the model before: fedhe-admin model download JOB --out model.pt

    Example: fedhe-admin jobs delete brain_tissue
    """
    found = find_job(session, job)
    confirm(f"Delete job {found.job_id} ({printable(found.name)}) and its checkpoints from the server?", yes=yes)
    session.call("DeleteJob", admin.JobRef(job_id=found.job_id))
    typer.echo(f"job {found.job_id} is deleted")
