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
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import DBAPIError

from fedhe.errors import ConfigError, ResourceError, StateError
from fedhe.server.claim import Claim

BUSY_TIMEOUT_SECONDS = 20
"""How long a transaction waits for another program that holds the database, such as a backup."""

CONNECT_SECONDS = 10
"""How long a PostgreSQL may take to answer at all."""

_DISK_FULL, _NOT_PERMITTED = "53100", "42501"  # PostgreSQL's documentation, appendix A

_MIGRATIONS = Path(__file__).parent / "migrations"


class Store:
    """An open, migrated database.

    Methods may be called from any thread.

    Args:
        engine: of the database.
        claim: what makes this server its only one (claim.py); None where the lock on the server's folder does.
    """

    def __init__(self, engine: Engine, claim: Claim | None = None) -> None:
        self._engine = engine
        self._claim = claim
        self._writing = threading.Lock()

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction: all of it is on the disk when the block ends, or none of it.

        Raises:
            ResourceError: the disk is full or fails, or the database is away; nothing was changed.
            StateError: another server has used the database meanwhile.
        """
        with self._writing, _translated():
            if self._claim is None:
                with self._engine.begin() as connection:
                    yield connection
            else:
                with self._claim.connection() as connection, connection.begin():
                    yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent view for reading.

        Raises:
            ResourceError: the disk fails, or the database is away.
        """
        with _translated(), self._engine.connect() as connection:
            yield connection

    def close(self) -> None:
        """Gives all connections back."""
        if self._claim is not None:
            self._claim.release()
        self._engine.dispose()


def open_store(url: URL) -> Store:
    """Opens the database, making or migrating it as needed; of PostgreSQL's, as its only server.

    Args:
        url: see `fedhe.server.database.database_url`.

    Raises:
        ResourceError: it cannot be reached, opened or written.
        StateError: it was written by a newer fedhe, or another server uses it.
        ConfigError: what speaks to PostgreSQL is not installed.
    """
    engine = _engine(url)
    claim = Claim(engine) if engine.dialect.name == "postgresql" else None
    try:
        with _translated():
            if claim is None:
                with engine.begin() as connection:
                    _migrate(connection)
            else:
                with claim.connection() as connection, connection.begin():
                    _migrate(connection)
                claim.sign()
    except BaseException:
        if claim is not None:
            claim.release()
        engine.dispose()
        raise
    return Store(engine, claim)


def look_into(url: URL) -> Store:
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


def schema_version(connection: Connection) -> str | None:
    """The migration that the database stands at; None of an empty one."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return str(connection.execute(sa.text("select version_num from alembic_version")).scalar_one())


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "sqlite":
        engine = sa.create_engine(url)
        sa.event.listen(engine, "connect", _make_durable)
        sa.event.listen(engine, "begin", _begin)
        return engine
    arguments = {"connect_timeout": CONNECT_SECONDS, "application_name": "fedhe-server"}
    try:
        # Pinged before use: a database that was started anew costs one try, not an error.
        engine = sa.create_engine(url, isolation_level="REPEATABLE READ", pool_pre_ping=True, connect_args=arguments)
    except ImportError as error:
        raise ConfigError(
            f"PostgreSQL needs the package psycopg, which cannot be loaded: {str(error).partition(chr(10))[0]}",
            "install it with: pip install 'fedhe[postgresql]'",
        ) from error
    sa.event.listen(engine, "connect", _wait_for_the_disk)
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


def _wait_for_the_disk(connection: Any, _record: Any) -> None:
    # Whatever the operator's default is: what was answered for must survive the database's crash.
    with connection.cursor() as cursor:
        cursor.execute("SET synchronous_commit TO on")
    connection.commit()


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


@contextmanager
def _translated() -> Iterator[None]:
    """The border where the database's exceptions become ours."""
    try:
        yield
    except DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None)
        reason = str(error.orig).strip().partition("\n")[0]
        if "full" in reason or state == _DISK_FULL:
            raise ResourceError(f"the server's disk is full: {reason}", "free space on it") from error
        if state == _NOT_PERMITTED:
            raise ResourceError(
                f"the server's database does not permit it: {reason}",
                "make the user of the URL the owner of its database",
            ) from error
        if isinstance(error, sa.exc.IntegrityError | sa.exc.ProgrammingError | sa.exc.DataError):
            raise  # our bug, not the disk's
        at_postgresql = state is not None or type(error.orig).__module__.startswith("psycopg")
        raise ResourceError(
            f"the server's database fails: {reason}",
            "check that PostgreSQL runs, and user, password, host, port and name in the database's URL"
            if at_postgresql
            else "check its disk and permissions",
        ) from error
