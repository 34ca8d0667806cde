"""One server for one PostgreSQL database: a lock that the connection which writes holds, and a signature in the tables.

The lock ends with its connection, also when the server dies. When the connection breaks and is made anew, the signature
tells whether another server has used the database meanwhile: then what this one holds in memory is no longer true.
"""

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from fedhe.errors import StateError
from fedhe.server import records

SIGNATURE = "server-signature"
"""The setting that names the server which uses the database."""

_LOCK = int.from_bytes(hashlib.sha256(b"fedhe/v1/server").digest()[:8], "big", signed=True)


class Claim:
    """The connection that holds the lock; for one thread at a time.

    Args:
        engine: of a PostgreSQL database.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._held: Connection | None = None
        self._signature: str | None = None

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """The connection, made anew if it broke; no transaction is under way.

        Raises:
            StateError: another server holds the lock, or has used the database meanwhile.
            DBAPIError: the database is away.
        """
        if self._held is None:
            self._held = self._take()
        try:
            yield self._held
        finally:
            if self._held.invalidated:
                self._held.close()
                self._held = None

    def sign(self) -> None:
        """Marks the database as this server's; called once its tables are there."""
        signature = secrets.token_hex(16)
        with self.connection() as connection, connection.begin():
            records.set_setting(connection, SIGNATURE, signature)
        self._signature = signature

    def release(self) -> None:
        """Gives the lock back."""
        if self._held is not None:
            # Closed for good, not given to the pool: the lock is the session's.
            self._held.invalidate()
            self._held.close()
            self._held = None

    def _take(self) -> Connection:
        connection = self._engine.connect()
        try:
            self._check(connection)
            connection.commit()
        except BaseException:
            connection.invalidate()
            connection.close()
            raise
        return connection

    def _check(self, connection: Connection) -> None:
        if not connection.execute(sa.select(sa.func.pg_try_advisory_lock(_LOCK))).scalar():
            raise StateError(
                "another fedhe-server uses this PostgreSQL database",
                "stop it first, or give each server a database of its own",
            )
        connection.commit()  # what others wrote until now is seen only from here on
        if self._signature is not None and records.setting(connection, SIGNATURE) != self._signature:
            raise StateError(
                "another fedhe-server has used this PostgreSQL database while this one could not reach it",
                "stop this server; the other one's state is the newer one",
            )
