"""`fedhe-admin sites`: which hospitals take part, and letting one pause."""

from typing import Annotated

import typer

from fedhe.cli.admin_format import nearest, printable
from fedhe.cli.admin_options import JsonOption, connected
from fedhe.cli.admin_session import AdminSession
from fedhe.cli.output import local_time, print_listing
from fedhe.errors import NotFoundError
from fedhe.wire import admin

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="Which hospitals take part; let one pause.")

SiteArgument = Annotated[str, typer.Argument(metavar="SITE", help="The site's name.", show_default=False)]


@app.command("list")
@connected
def list_sites(session: AdminSession, *, as_json: JsonOption = False) -> None:
    """Show all sites of the project: online, enabled, version, certificate.

    Example: fedhe-admin sites list
    """
    sites = session.call("ListSites", admin.ListSitesRequest()).sites
    if as_json:
        rows = [
            {
                "name": site.name,
                "enabled": site.enabled,
                "revoked": site.revoked,
                "online": site.online,
                "last_seen": site.last_seen or None,
                "software_version": site.software_version or None,
                "certificate_expires": site.certificate_expires or None,
            }
            for site in sites
        ]
    else:
        rows = [
            {
                "site": printable(site.name),
                "state": _state(site),
                "last_seen": local_time(site.last_seen) or "never",
                "version": printable(site.software_version) or None,
                "certificate_until": local_time(site.certificate_expires),
            }
            for site in sites
        ]
    print_listing("sites", rows, ["site", "state", "last_seen", "version", "certificate_until"], as_json=as_json)


@app.command()
@connected
def disable(session: AdminSession, site: SiteArgument) -> None:
    """Leave a site out of rounds until it is enabled again; a round that it is part of goes on without it.

    Needs role lead. To end a site's trust for good, revoke it with fedhe-provision.

    Example: fedhe-admin sites disable hospitalB
    """
    _set(session, site, enabled=False)


@app.command()
@connected
def enable(session: AdminSession, site: SiteArgument) -> None:
    """Let a disabled site take part again.

    Needs role lead.

    Example: fedhe-admin sites enable hospitalB
    """
    _set(session, site, enabled=True)


def _set(session: AdminSession, name: str, *, enabled: bool) -> None:
    known = [site.name for site in session.call("ListSites", admin.ListSitesRequest()).sites]
    if name not in known:
        raise NotFoundError(f"no site '{name}' in project '{session.installation.project}'", nearest(name, known))
    session.call("SetSite", admin.SetSiteRequest(name=name, enabled=enabled))
    typer.echo(f"site {name} is {'enabled' if enabled else 'disabled'}")


def _state(site: admin.Site) -> str:
    if site.revoked:
        return "revoked"
    presence = "online" if site.online else "offline"
    return presence if site.enabled else f"{presence}, disabled"
