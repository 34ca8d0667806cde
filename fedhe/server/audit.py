"""The server's audit log: each decision exactly once, also when the server dies between deciding and writing.

A decision's line is stored in the database in the transaction that decides, and carried on to the hash-chained file
afterwards. Each line in the file has its sequence number in the database, so a line is not written twice.
"""

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy.engine import Connection

from fedhe.errors import ResourceError, TrustError
from fedhe.server import records
from fedhe.server.store import Store
from fedhe.trust import audit_log

MAX_VALUE_CHARACTERS = 2000
"""Longest text that one field of an audit line keeps."""

REFUSAL_INTERVAL_SECONDS = 60.0
"""One refusal of one kind to one caller is noted at most this often, so that refused calls cannot fill the disk."""

MAX_REMEMBERED_REFUSALS = 10_000


class Audit:
    """Writes the audit log of one server; safe to use from any thread."""

    def __init__(self, path: Path, store: Store) -> None:
        self._path = path
        self._store = store
        self._lock = threading.Lock()
        self._refusals: dict[tuple[str, str], float] = {}

    def decide(self, connection: Connection, now: float, kind: str, fields: Mapping[str, Any]) -> None:
        """Notes a decision in the transaction that makes it; call `deliver` after the transaction."""
        records.decide(connection, now, kind, json.dumps(_shorten(fields), sort_keys=True))

    def deliver(self) -> None:
        """Carries decided lines on to the log.

        Raises:
            ResourceError: the disk does not take them; they stay in the database for the next time.
            TrustError: the log was damaged.
        """
        with self._lock:
            with self._store.read() as connection:
                lines = records.undelivered(connection)
            if not lines:
                return
            last = audit_log.head(self._path).last
            written = int(last["fields"].get("sequence", 0)) if last else 0
            for sequence, time, kind, fields in lines:
                if sequence > written:
                    audit_log.append(self._path, kind, {**json.loads(fields), "sequence": sequence}, time)
            with self._store.write() as connection:
                records.delivered(connection, lines[-1][0])

    def note(self, now: float, kind: str, fields: Mapping[str, Any]) -> None:
        """Notes a decision that changes nothing else in the database.

        Raises:
            ResourceError: the disk does not take it.
            TrustError: the log was damaged.
        """
        with self._store.write() as connection:
            self.decide(connection, now, kind, fields)
        self.deliver()

    def note_refusal(self, now: float, caller: str, method: str, reason: str, address: str = "") -> None:
        """Notes that a call was refused, at most once in `REFUSAL_INTERVAL_SECONDS` for the same caller and method.

        A full disk or a damaged log is no reason to answer a refused caller differently, so it is passed over here;
        the lines that matter to a job raise.
        """
        key = (caller, method)
        with self._lock:
            if now - self._refusals.get(key, float("-inf")) < REFUSAL_INTERVAL_SECONDS:
                return
            if len(self._refusals) >= MAX_REMEMBERED_REFUSALS:
                self._refusals.clear()
            self._refusals[key] = now
        try:
            self.note(now, "call-refused", {"who": caller, "method": method, "reason": reason, "address": address})
        except (ResourceError, TrustError):
            return


def _shorten(fields: Mapping[str, Any]) -> dict[str, Any]:
    shortened: dict[str, Any] = {}
    for name, value in fields.items():
        plain = value.hex() if isinstance(value, bytes) else value
        text = plain if isinstance(plain, str) else json.dumps(plain, default=str)
        if len(text) > MAX_VALUE_CHARACTERS:
            shortened[name] = text[:MAX_VALUE_CHARACTERS] + "..."
        else:
            shortened[name] = plain
    return shortened
