"""`fedhe-client jobs`: what the people at a site see of jobs, and how they approve or reject them by their hash."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from fedhe.cli.client_place import HomeOption, JsonOption, SiteOption, site_folder
from fedhe.cli.output import local_time, print_json, print_listing, print_table
from fedhe.client.approvals import (
    Approval,
    code_files,
    decide,
    describe_change,
    last_approved,
    printable,
    read_approvals,
)
from fedhe.client.durable import disk_errors
from fedhe.client.job_folder import JobFolder, JobRecord
from fedhe.client.status import read_status
from fedhe.config.job_archive import JobArchive, read_job
from fedhe.errors import ConfigError, NotFoundError, StateError
from fedhe.wire.messages import parse_signed_job

app = typer.Typer(no_args_is_help=True, help="See, approve and reject jobs.")

JobArgument = Annotated[
    str, typer.Argument(metavar="JOB", help="A job's id, its name, or the beginning of its hash.", show_default=False)
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@dataclass(frozen=True)
class _Job:
    """A job that has reached this site."""

    folder: JobFolder
    record: JobRecord
    archive: JobArchive
    data: bytes

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the job archive: what is approved."""
        return self.archive.digest.hex()


@app.command("list")
def list_(
    context: typer.Context, *, as_json: JsonOption = False, home: HomeOption = None, site: SiteOption = None
) -> None:
    """List the jobs that this site has heard of, and what they wait for.

    Example: fedhe-client jobs list
    """
    folder = site_folder(context, home, site)
    approvals = read_approvals(folder)
    status = read_status(folder) or {"running": False, "jobs": []}
    shown = {job["job_id"]: job for job in status["jobs"]}
    rows: list[dict[str, Any]] = []
    for path in sorted((folder / "jobs").glob("*")):
        record = JobFolder(path).read() if path.is_dir() else None
        if record is None:
            continue
        live = shown.get(record.job_id, {})
        digest = record.archive_digest.hex() if record.archive_digest else ""
        approval = approvals.get(digest)
        activity = live.get("activity", "idle") if status["running"] else "agent not running"
        rows.append(
            {
                "job_id": record.job_id,
                "name": printable(record.name),
                "state": f"ended: {printable(record.ended)}" if record.ended else activity,
                "round": f"{record.round}/{record.rounds}",
                "model_version": record.version,
                "approval": approval.decision if approval else "none",
                "submitted_by": printable(record.submitted_by),
                "hash": digest if as_json else digest[:16],
                "message": printable(str(live.get("message", ""))),
            }
        )
    columns = ("job_id", "name", "state", "round", "model_version", "approval", "submitted_by", "hash", "message")
    print_listing("jobs", rows, columns, as_json=as_json)


@app.command()
def show(
    context: typer.Context,
    job: JobArgument,
    *,
    as_json: JsonOption = False,
    home: HomeOption = None,
    site: SiteOption = None,
) -> None:
    """Show a job: who submitted it, its files, and what changed since the one that was approved last.

    Example: fedhe-client jobs show brain_tissue
    """
    folder = site_folder(context, home, site)
    found = _find(folder, job)
    approval = read_approvals(folder).get(found.digest)
    if as_json:
        print_json(_described(found, approval))
        return
    _print_job(found, approval)
    _print_change(folder, found)


@app.command()
def approve(
    context: typer.Context,
    job: JobArgument,
    *,
    digest: Annotated[
        str | None, typer.Option("--hash", metavar="HEX", help="Approve only if this is the job's hash.")
    ] = None,
    yes: YesOption = False,
    home: HomeOption = None,
    site: SiteOption = None,
) -> None:
    """Let a job run here. Approval is for exactly these files, by their hash; a changed job asks again.

    Example: fedhe-client jobs approve brain_tissue

    In scripts: fedhe-client jobs approve brain_tissue --yes --hash 3f1c...
    """
    folder = site_folder(context, home, site)
    found = _find(folder, job)
    if digest is not None and (len(digest) < 16 or not found.digest.startswith(digest.lower())):
        raise ConfigError(
            f"expected the hash {digest}, the job's is {found.digest}",
            "give at least 16 digits of it",
        )
    _print_job(found, read_approvals(folder).get(found.digest))
    _print_change(folder, found)
    if not yes and not typer.confirm(f"Let this job run at site {folder.name}?"):
        raise typer.Abort
    _again(found)
    decide(folder, found.digest, "approved", name=found.record.name, now=time.time(), archive=found.data)
    typer.echo(f"approved {found.digest}")


@app.command()
def reject(
    context: typer.Context,
    job: JobArgument,
    *,
    reason: Annotated[str, typer.Option("--reason", help="Told to the admin who submitted the job.")] = "",
    home: HomeOption = None,
    site: SiteOption = None,
) -> None:
    """Refuse a job, or take an approval back; a job that runs stops before its next step.

    Example: fedhe-client jobs reject brain_tissue --reason "reads files outside of the data root"
    """
    folder = site_folder(context, home, site)
    found = _find(folder, job)
    decide(
        folder, found.digest, "rejected",
        name=found.record.name, now=time.time(), archive=found.data, reason=printable(reason),
    )  # fmt: skip
    typer.echo(f"rejected {found.digest}")


def _find(folder: Path, wanted: str) -> _Job:
    """The job of that id, name or hash that came last.

    Raises:
        NotFoundError: there is none, or its files have not come yet.
    """
    matching: list[tuple[float, JobFolder, JobRecord]] = []
    known: list[str] = []
    for path in (folder / "jobs").glob("*"):
        job = JobFolder(path)
        if not path.is_dir() or (record := job.read()) is None:
            continue
        known.append(record.job_id)
        digest = record.archive_digest.hex() if record.archive_digest else ""
        if wanted in {record.job_id, record.name} or (len(wanted) >= 8 and digest.startswith(wanted.lower())):
            matching.append((path.stat().st_ctime, job, record))
    if not matching:
        there = ", ".join(sorted(known)) or "none"
        raise NotFoundError(f"no job '{wanted}' at this site; there is {there}", "fedhe-client jobs list")
    ids = {record.job_id for _, _, record in matching}
    if len(ids) > 1 and wanted not in ids:
        digests = {record.archive_digest for _, _, record in matching}
        if len(digests) > 1:
            raise ConfigError(f"'{wanted}' names several jobs: {', '.join(sorted(ids))}", "give one of these ids")
    _, job, record = max(matching, key=lambda match: (match[2].job_id == wanted, match[0]))
    if not job.archive.exists() or record.archive_digest is None:
        raise NotFoundError(f"the files of job {record.job_id} have not reached this site yet", "start the agent")
    with disk_errors(job.archive):
        data = parse_signed_job(job.archive.read_bytes()).archive
    return _Job(job, record, read_job(data), data)


def _again(found: _Job) -> None:
    """What was shown is what is approved, even if the file changed while somebody read.

    Raises:
        StateError: the file changed.
    """
    if found.archive.digest != found.record.archive_digest:
        raise StateError(
            f"the stored job has the hash {found.digest}, the one that came signed had "
            f"{found.record.archive_digest.hex() if found.record.archive_digest else 'none'}",
            "somebody changed the file at this site; delete the job's folder and let it come again",
        )


def _described(found: _Job, approval: Approval | None) -> dict[str, Any]:
    federation = found.archive.federation
    return {
        "job_id": found.record.job_id,
        "name": found.record.name,
        "submitted_by": found.record.submitted_by,
        "hash": found.digest,
        "approval": approval.decision if approval else None,
        "approved_by": approval.who if approval else None,
        "rounds": federation.rounds,
        "round": found.record.round,
        "model_version": found.record.version,
        "ended": found.record.ended,
        "min_sites": federation.min_sites,
        "files": {name: len(data) for name, data in sorted(found.archive.files.items())},
        "code": code_files(dict(found.archive.files)),
        "folder": str(found.folder.path),
    }


def _print_job(found: _Job, approval: Approval | None) -> None:
    described = _described(found, approval)
    when = f"{approval.decision} by {approval.who} on {local_time(approval.when)}" if approval else "no decision yet"
    facts = [
        ("name", printable(described["name"])),
        ("submitted by", printable(described["submitted_by"])),
        ("hash", described["hash"]),
        ("decision", when),
        ("rounds", f"{described['round']} of {described['rounds']}"),
        ("minimum sites", described["min_sites"]),
        ("folder", described["folder"]),
    ]
    print_table(f"job {described['job_id']}", ("", ""), facts)
    code = set(described["code"])
    rows = [(printable(name), size, "code" if name in code else "") for name, size in described["files"].items()]
    print_table("files", ("file", "bytes", ""), rows)


def _print_change(folder: Path, found: _Job) -> None:
    before = last_approved(folder, found.record.name)
    if before is None:
        typer.echo("no job of this name was approved here before: all of it is new")
        return
    approval, data = before
    if approval.digest == found.digest:
        typer.echo(f"the same files were approved on {local_time(approval.when)}")
        return
    typer.echo(f"changes since the one approved on {local_time(approval.when)} ({approval.digest[:16]}):")
    for line in describe_change(dict(read_job(data).files), dict(found.archive.files)):
        typer.echo(line)
