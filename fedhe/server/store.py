"""The server's database: opening, migrating, and transactions that are on the disk when they end.

All writing goes through `Store.write`, one transaction at a time; what a transaction may contain is in records.py.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError

from fedhe.errors import ResourceError, StateError

BUSY_TIMEOUT_SECONDS = 20
"""How long a transaction waits for another program that holds the database, such as a backup."""

_MIGRATIONS = Path(__file__).parent / "migrations"


class Store:
    """An open, migrated database.

    Methods may be called from any thread.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writing = threading.Lock()

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction: all of it is on the disk when the block ends, or none of it.

        Raises:
            ResourceError: the disk is full or fails; nothing was changed.
        """
        with self._writing, _translated(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent view for reading.

        Raises:
            ResourceError: the disk fails.
        """
        with _translated(), self._engine.connect() as connection:
            yield connection

    def close(self) -> None:
        """Gives all connections back."""
        self._engine.dispose()


def open_store(url: str) -> Store:
    """Opens the database, making or migrating it as needed.

    Args:
        url: SQLAlchemy URL; see `sqlite_url`.

    Raises:
        ResourceError: it cannot be opened or written.
        StateError: it was written by a newer fedhe.
    """
    engine = _engine(url)
    try:
        with _translated(), engine.begin() as connection:
            _migrate(connection)
    except BaseException:
        engine.dispose()
        raise
    return Store(engine)


def look_into(url: str) -> Store:
    """Opens a database for reading as it is, also while a server uses it.

    Raises:
        ResourceError: it cannot be opened.
        StateError: another fedhe wrote it.
    """
    engine = _engine(url)
    with _translated(), engine.connect() as connection:
        found, newest = schema_version(connection), _scripts(connection)[1].get_current_head()
    if found != newest:
        engine.dispose()
        raise StateError(
            f"the server's database has schema {found}, this fedhe reads {newest}",
            "start the server with this fedhe once, or use the fedhe that wrote it",
        )
    return Store(engine)


def sqlite_url(path: Path) -> str:
    """The URL of an SQLite file."""
    return f"sqlite:///{path}"


def schema_version(connection: Connection) -> str | None:
    """The migration that the database stands at; None of an empty one."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return str(connection.execute(sa.text("select version_num from alembic_version")).scalar_one())


def _engine(url: str) -> Engine:
    engine = sa.create_engine(url)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _make_durable)
        sa.event.listen(engine, "begin", _begin)
    return engine


def _scripts(connection: Connection) -> tuple[Config, ScriptDirectory]:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config, ScriptDirectory.from_config(config)


def _migrate(connection: Connection) -> None:
    config, scripts = _scripts(connection)
    found, newest = schema_version(connection), scripts.get_current_head()
    if found == newest:
        return
    try:
        if found is not None:
            scripts.get_revision(found)
    except CommandError as error:
        raise StateError(
            f"the server's database has schema {found}, this fedhe knows schemas up to {newest}",
            "start the newer fedhe again, or restore a backup that this one made",
        ) from error
    command.upgrade(config, "head")


def _make_durable(connection: Any, _record: Any) -> None:
    # The driver must not begin transactions by itself; `_begin` does.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_SECONDS * 1000}")
    cursor.execute("PRAGMA journal_mode = WAL")
    # In WAL mode only FULL has a commit on the disk when it returns; the default can lose the last ones.
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


@contextmanager
def _translated() -> Iterator[None]:
    """The border where the database's exceptions become ours."""
    try:
        yield
    except DBAPIError as error:
        reason = str(error.orig).partition("\n")[0]
        if "full" in reason:
            raise ResourceError(f"the server's disk is full: {reason}", "free space on it") from error
        if isinstance(error, sa.exc.IntegrityError | sa.exc.ProgrammingError | sa.exc.DataError):
            raise  # our bug, not the disk's
        raise ResourceError(f"the server's database fails: {reason}", "check its disk and permissions") from error
