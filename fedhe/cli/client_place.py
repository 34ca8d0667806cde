"""Which site on this computer a `fedhe-client` command is about."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from fedhe.errors import ConfigError, NotFoundError
from fedhe.trust.installation import KIT_FOLDER, Installation, load_installation

DEFAULT_HOME = Path("~/.fedhe")

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", metavar="DIR", help="Folder of what is installed on this computer. Default: ~/.fedhe"),
]
SiteOption = Annotated[
    str | None, typer.Option("--site", metavar="NAME", help="Site, where several are installed on this computer.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@dataclass(frozen=True)
class Place:
    """Home and site from the options before the command."""

    home: Path | None = None
    site: str | None = None


def home_of(context: typer.Context, home: Path | None) -> Path:
    """HOME: the command's own option, else the one before it, else the default."""
    place = context.find_root().obj
    given = home or (place.home if isinstance(place, Place) else None) or DEFAULT_HOME
    return given.expanduser()


def site_folder(context: typer.Context, home: Path | None, site: str | None) -> Path:
    """HOME/sites/NAME of the site that is meant.

    Raises:
        NotFoundError: no such site is installed.
        ConfigError: several are installed and none was named.
    """
    sites = home_of(context, home) / "sites"
    place = context.find_root().obj
    wanted = site or (place.site if isinstance(place, Place) else None)
    installed = sorted(path.parent.name for path in sites.glob(f"*/{KIT_FOLDER}"))
    if not installed:
        raise NotFoundError(f"no site is installed in {sites}", "fedhe-client install KIT")
    if wanted is None:
        if len(installed) > 1:
            raise ConfigError(f"expected one of the sites {', '.join(installed)}, got none", "add --site NAME")
        wanted = installed[0]
    if wanted not in installed:
        raise NotFoundError(f"site {wanted} is not installed in {sites}, there is {', '.join(installed)}")
    return sites / wanted


def installation(context: typer.Context, home: Path | None, site: str | None) -> Installation:
    """The checked kit of the site that is meant.

    Raises:
        FedheError: as `site_folder` and `load_installation`.
    """
    return load_installation(site_folder(context, home, site), role_prefix="site", now=time.time())
