"""The signed roster that the server goes by: read again whenever its file changes, never an older one."""

import threading
from pathlib import Path

from fedhe.errors import ResourceError, StateError, TrustError
from fedhe.server.durable import disk_error
from fedhe.trust.private_files import write_private
from fedhe.trust.roster import Roster, read_roster


class RosterFile:
    """The current roster and its signed bytes; safe to use from any thread.

    Args:
        path: `kit/roster.signed`.
        ca_pem: the project's CA, which signs rosters.
        project: the project's name.
        at_least_version: newest version that this server has seen; an older file is refused as rolled back.

    Raises:
        TrustError: not signed by the CA, of another project, or older than `at_least_version`.
        ResourceError: cannot be read.
    """

    def __init__(self, path: Path, ca_pem: bytes, *, project: str, at_least_version: int) -> None:
        self._path = path
        self._ca_pem = ca_pem
        self._project = project
        self._lock = threading.Lock()
        self._stamp = self._stat()
        self._signed = self._read()
        self._roster = self._check(self._signed, at_least_version)
        self._problem: str | None = None

    @property
    def current(self) -> Roster:
        """The newest roster read."""
        return self._roster

    @property
    def signed(self) -> bytes:
        """The newest roster as it was signed."""
        return self._signed

    @property
    def problem(self) -> str | None:
        """Why the file as it is now is not believed, or None; the roster before it stays in force."""
        return self._problem

    def refresh(self) -> bool:
        """Reads the file if it was replaced; costs one look at its times otherwise.

        Returns:
            True if a newer roster is in force now.
        """
        try:
            stamp = self._stat()
            if stamp == self._stamp:
                return False
            with self._lock:
                self._stamp = stamp
                signed = self._read()
                if signed == self._signed:
                    self._problem = None
                    return False
                self._take(signed, self._check(signed, self._roster.version + 1))
        except (TrustError, ResourceError) as error:
            self._problem = error.message
            return False
        return True

    def preview(self, signed: bytes) -> Roster:
        """Reads a newer roster without putting it in force.

        Raises:
            TrustError: not signed by this project's CA, or not newer than the one in force.
        """
        return self._check(signed, self._roster.version + 1)

    def replace(self, signed: bytes) -> Roster:
        """Puts a newer roster in force, durably.

        Returns:
            The roster now in force.

        Raises:
            TrustError: not signed by this project's CA.
            StateError: not newer than the one in force.
            ResourceError: the disk does not take it.
        """
        with self._lock:
            if signed == self._signed:
                return self._roster
            roster = self._check(signed, 0)
            if roster.version <= self._roster.version:
                raise StateError(
                    f"expected a roster newer than version {self._roster.version}, got version {roster.version}",
                    "hand over the roster.signed that fedhe-provision wrote last",
                )
            write_private(self._path, signed)
            self._stamp = self._stat()
            self._take(signed, roster)
            return roster

    def _take(self, signed: bytes, roster: Roster) -> None:
        self._roster, self._signed, self._problem = roster, signed, None

    def _check(self, signed: bytes, at_least_version: int) -> Roster:
        return read_roster(signed, self._ca_pem, project=self._project, at_least_version=at_least_version)

    def _read(self) -> bytes:
        try:
            return self._path.read_bytes()
        except OSError as error:
            raise ResourceError(f"{self._path}: cannot read the roster: {error.strerror}") from error

    def _stat(self) -> tuple[int, int, int]:
        try:
            status = self._path.stat()
        except OSError as error:
            raise disk_error(error, str(self._path)) from error
        return status.st_ino, status.st_mtime_ns, status.st_size
