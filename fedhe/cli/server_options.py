"""Options that several commands of fedhe-server take, and the folder that they mean."""

from pathlib import Path
from typing import Annotated

import typer

HomeOption = Annotated[
    Path,
    typer.Option(
        "--home",
        metavar="DIR",
        envvar="FEDHE_HOME",
        help="Folder of what is installed on this computer; the server's is DIR/server.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
DEFAULT_HOME = Path("~/.fedhe")


def server_folder(home: Path) -> Path:
    """The server's folder below HOME."""
    return home.expanduser() / "server"
