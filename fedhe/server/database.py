"""Which database a server uses: an SQLite file in its folder, or a PostgreSQL that its operator names."""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError

from fedhe.errors import ConfigError, StateError
from fedhe.server import records
from fedhe.server.store import Store
from fedhe.trust.private_files import read_private, write_private

DATABASE_FILE = "server.db"
"""The SQLite file, in the server's folder."""

URL_FILE = "database.url"
"""One line with the URL of a PostgreSQL database, in the server's folder; it holds a password, so mode 0600."""

URL_VARIABLE = "FEDHE_DATABASE_URL"
"""Environment variable with such a URL; goes before the file."""

IDENTITY_FILE = "database.id"
"""What ties the server's folder to its PostgreSQL database."""

_IDENTITY = "server-folder"
MAX_URL_BYTES = 4096
_EXAMPLE = "postgresql://fedhe:PASSWORD@db.example.org:5432/fedhe?sslmode=verify-full"


def database_url(folder: Path, environment: Mapping[str, str] = os.environ) -> URL:
    """The database of the server in a folder.

    Args:
        folder: HOME/server.
        environment: of the process.

    Raises:
        ConfigError: what is there is no URL of a PostgreSQL database; the message does not repeat it.
        TrustError: others may read the file.
        ResourceError: the file cannot be read.
    """
    if text := environment.get(URL_VARIABLE, "").strip():
        return _postgresql_url(text, URL_VARIABLE)
    file = folder / URL_FILE
    if not file.exists():
        return sqlite_url(folder / DATABASE_FILE)
    content = read_private(file, MAX_URL_BYTES)
    return _postgresql_url(content.decode(errors="replace").strip(), str(file))


def bind_to_folder(store: Store, folder: Path) -> None:
    """Makes sure that a PostgreSQL database and the chunks in a server's folder belong together.

    Chunks of jobs that a database does not know count as left over and are removed, so the wrong database must not be
    taken for the right one. The first start ties the two together.

    Raises:
        StateError: the database is another server's, or the folder's jobs are in another database.
        ResourceError: file or database cannot be read or written.
    """
    if (folder / DATABASE_FILE).exists():
        raise StateError(
            f"{folder / DATABASE_FILE}: this server has kept its jobs in SQLite until now",
            f"start without {URL_FILE} to go on with them; a server begins with PostgreSQL in an empty folder",
        )
    file = folder / IDENTITY_FILE
    with store.read() as connection:
        told = records.setting(connection, _IDENTITY)
    kept = read_private(file, MAX_URL_BYTES).decode(errors="replace").strip() if file.exists() else None
    if told is None and kept is None:
        told = secrets.token_hex(16)
        write_private(file, f"{told}\n".encode())
        with store.write() as connection:
            records.set_setting(connection, _IDENTITY, told)
        return
    if told is None:
        raise StateError(
            f"the database is empty, but the server in {folder} has used one before",
            "name that one; or, if it is lost, begin anew in an empty folder",
        )
    if told != kept:
        raise StateError(
            f"the database belongs to another server's folder, not to {folder}",
            "name the database that belongs to this folder, or an empty one if the folder is new",
        )


def sqlite_url(path: Path) -> URL:
    """The URL of an SQLite file."""
    return URL.create("sqlite", database=str(path))


def _postgresql_url(text: str, where: str) -> URL:
    try:
        url = sa.make_url(text) if len(text) <= MAX_URL_BYTES and "\n" not in text else None
    except (ArgumentError, ValueError):
        url = None
    if url is None or url.drivername not in {"postgresql", "postgres", "postgresql+psycopg"} or not url.database:
        # Not quoted: it may hold a password.
        raise ConfigError(f"{where}: expected one line such as {_EXAMPLE}, got something else")
    return url.set(drivername="postgresql+psycopg")
