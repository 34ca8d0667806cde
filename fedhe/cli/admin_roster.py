"""`fedhe-admin roster`: hands the server a newer signed list of participants."""

from pathlib import Path
from typing import Annotated

import typer

from fedhe.cli.admin_format import listed
from fedhe.cli.admin_options import connected
from fedhe.cli.admin_session import AdminSession
from fedhe.errors import ConfigError
from fedhe.trust.roster import MAX_ROSTER_BYTES, read_roster
from fedhe.wire import admin

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Tell the server about added, renewed and revoked participants.",
)


@app.command()
@connected
def update(
    session: AdminSession,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="roster.signed of fedhe-provision.", show_default=False)],
) -> None:
    """Hand the server a newer signed roster; a revoked site is out at its next call.

    Needs role lead. The server refuses what the project's authority did not sign, and what is older than it has.

    Example: fedhe-admin roster update build/kits/roster.signed
    """
    try:
        if (count := file.stat().st_size) > MAX_ROSTER_BYTES:
            raise ConfigError(f"{file}: {count} bytes, a roster has at most {MAX_ROSTER_BYTES}")
        signed = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}", "fedhe-provision writes OUT/roster.signed") from error
    installation = session.installation
    roster = read_roster(signed, installation.ca_pem, project=installation.project, at_least_version=1)
    session.call("UpdateRoster", admin.UpdateRosterRequest(roster=signed))
    revoked = listed(sorted({entry.name for entry in roster.revoked} - {one.name for one in roster.participants}))
    typer.echo(f"server {session.server} has roster {roster.version}: sites {listed(roster.sites)}; revoked {revoked}")
