"""`fedhe-admin`: runs jobs and rounds on the server; what a role may do, the server decides."""

import os

# It would print a failed handshake on its own, before we say the same in one line. To look for a fault: =DEBUG.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from pathlib import Path
from typing import Annotated

import typer

from fedhe import __version__
from fedhe.cli import admin_jobs, admin_model, admin_roster, admin_rounds, admin_sites
from fedhe.cli.admin_format import duration, printable, size
from fedhe.cli.admin_logs import logs
from fedhe.cli.admin_options import (
    DEFAULT_HOME,
    HomeOption,
    JsonOption,
    Place,
    YesOption,
    confirm,
    connected,
    place_of,
)
from fedhe.cli.admin_session import AdminSession
from fedhe.cli.admin_steering import change, drain, pause, resume
from fedhe.cli.install import install_kit
from fedhe.cli.output import local_time, print_json, print_table
from fedhe.cli.run import EXIT_CODES_HELP, run
from fedhe.wire import admin

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="markdown",
    epilog=EXIT_CODES_HELP,
)
app.add_typer(admin_sites.app, name="sites")
app.add_typer(admin_jobs.app, name="jobs")
app.add_typer(admin_rounds.app, name="rounds")
app.add_typer(admin_model.app, name="model")
app.add_typer(admin_roster.app, name="roster")


def _print_version(*, wanted: bool) -> None:
    if wanted:
        typer.echo(f"fedhe-admin {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    *,
    home: Annotated[
        Path | None,
        typer.Option(
            "--home",
            metavar="DIR",
            envvar="FEDHE_HOME",
            help="Folder of what is installed on this computer. Default: ~/.fedhe",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--as", metavar="NAME", envvar="FEDHE_ADMIN", help="Admin to act as, where several are installed."
        ),
    ] = None,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=lambda wanted: _print_version(wanted=wanted),
            is_eager=True,
            help="Print the version and exit.",
        ),
    ] = False,
) -> None:
    """Run jobs and rounds of a federation: submit, watch, download the model.

    Begin with `fedhe-admin install lead.kit`, see who is there with `fedhe-admin status`, then
    `fedhe-admin jobs submit examples/brain_tissue --start` and `fedhe-admin rounds watch brain_tissue`.
    """
    del version  # its callback has printed it
    context.obj = Place(home, name)


@app.command()
def install(
    context: typer.Context,
    kit: Annotated[Path, typer.Argument(metavar="KIT", help="Your kit file from the coordinator.", show_default=False)],
    *,
    passphrase_file: Annotated[
        Path | None,
        typer.Option(
            "--passphrase-file", metavar="FILE", help="File with the passphrase; or FEDHE_PASSPHRASE; or asked."
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace an installed kit, e.g. by a renewed one.")
    ] = False,
    home: HomeOption = None,
) -> None:
    """Unpack an admin's kit with its passphrase; done once on each computer.

    Example: fedhe-admin install kits/lead.kit
    """
    place = place_of(context, home, None)
    installed = install_kit(kit, "admin", (place.home or DEFAULT_HOME).expanduser(), passphrase_file, replace)
    typer.echo(
        f"admin {installed.name} ({installed.role}) of project {installed.project} is installed in {installed.folder}"
    )
    typer.echo(f"server: {installed.server_host}:{installed.server_port}; try: fedhe-admin status")


@app.command()
@connected
def status(session: AdminSession, *, as_json: JsonOption = False) -> None:
    """Show the server's state: sites online, running jobs, disk, memory.

    Example: fedhe-admin status --json
    """
    state: admin.ServerStatus = session.call("GetStatus", admin.GetStatusRequest())
    if as_json:
        print_json(
            {
                "project": state.project,
                "server": session.server,
                "software_version": state.software_version,
                "started_at": state.started_at,
                "server_time": state.server_time,
                "sites_online": state.sites_online,
                "sites_known": state.sites_known,
                "jobs_running": state.jobs_running,
                "disk_used_bytes": state.disk_used_bytes,
                "disk_free_bytes": state.disk_free_bytes,
                "disk_budget_bytes": state.disk_budget_bytes or None,
                "peak_rss_bytes": state.peak_rss_bytes,
                "roster_version": state.roster_version,
                "key_id": state.key_id.hex(),
                "draining": state.draining,
                "jobs_busy": state.jobs_busy,
            }
        )
        return
    up = duration(state.server_time - state.started_at)
    facts = [
        ("project", printable(state.project)),
        ("version", printable(state.software_version)),
        ("up since", f"{local_time(state.started_at)} ({up})"),
        ("sites online", f"{state.sites_online} of {state.sites_known}"),
        ("jobs running", state.jobs_running),
        ("draining", f"yes, {state.jobs_busy} jobs still in a round" if state.draining else "no"),
        ("disk", f"{size(state.disk_used_bytes)} used, {size(state.disk_free_bytes)} free"),
        ("disk budget", size(state.disk_budget_bytes) if state.disk_budget_bytes else "none"),
        ("largest memory", size(state.peak_rss_bytes)),
        ("roster", f"version {state.roster_version}"),
        ("key", state.key_id.hex()),
    ]
    print_table(f"server {session.server}", ["", ""], facts)


app.command()(logs)
app.command()(drain)
for _steering in (pause, resume, change):
    admin_jobs.app.command()(_steering)


@app.command()
@connected
def shutdown(
    session: AdminSession,
    *,
    restart: Annotated[bool, typer.Option("--restart", help="Start again at once.")] = False,
    yes: YesOption = False,
) -> None:
    """Stop the server cleanly; jobs go on where they were when it starts again.

    Needs role lead.

    Example: fedhe-admin shutdown --restart
    """
    confirm(f"{'Restart' if restart else 'Stop'} server {session.server}?", yes=yes)
    session.call("Shutdown", admin.ShutdownRequest(restart=restart))
    typer.echo(f"server {session.server} {'restarts' if restart else 'stops'}; its jobs go on when it is up again")


def main() -> None:
    """Entry point of `fedhe-admin`."""
    run(app)
