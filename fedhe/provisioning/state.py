"""What the coordinator keeps: authority, keys, and what was issued to whom; one private file, replaced in one step."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field, ValidationError

from fedhe.config.document import FrozenModel
from fedhe.config.project import EngineName, HeSection
from fedhe.errors import StateError, TrustError
from fedhe.trust.installation import COORDINATOR_STATE_FILE
from fedhe.trust.private_files import (
    check_private,
    file_error,
    make_private_folder,
    read_limited,
    read_private,
    write_private,
)
from fedhe.trust.roster import MAX_ROSTER_BYTES, read_roster

PRIVATE_FOLDER = "private"
LOCK_FILE = "lock"
KITS_FOLDER = "kits"
ROSTER_FILE = "roster.signed"
MAX_STATE_BYTES = 64 * 1024 * 1024


class Certificate(FrozenModel):
    """A certificate that was issued.

    Attributes:
        not_after: when it expires, seconds since 1970 UTC.
    """

    serial: int
    not_after: float


class IssuedParticipant(FrozenModel):
    """A participant who has been given a kit.

    Attributes:
        role: as in its certificate.
        certificate: the one in the newest kit.
        older: certificates from before a renewal, which hold until they expire.
    """

    name: str
    role: str
    holds_key: bool
    certificate: Certificate
    older: tuple[Certificate, ...] = ()


class RevokedCertificate(FrozenModel):
    """See `fedhe.trust.roster.Revocation`."""

    name: str
    serial: int
    when: float
    reason: str


class State(FrozenModel):
    """Everything the coordinator must not lose, and nobody else may have.

    Attributes:
        pending: participants whose kit's passphrase may not have been shown, because a run was cut short.
    """

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    format: Literal[1] = 1
    project: str
    project_version: str
    host: str
    port: int
    he: HeSection
    engine: EngineName
    min_sites: int
    ca_pem: bytes
    ca_key_pem: bytes = Field(repr=False)
    ca_serial: int
    ca_not_after: float
    he_key: bytes = Field(repr=False)
    group_key: bytes = Field(repr=False)
    key_id: bytes
    roster_version: int
    signed_roster: bytes
    participants: tuple[IssuedParticipant, ...]
    revoked: tuple[RevokedCertificate, ...] = ()
    pending: tuple[str, ...] = ()


def load_state(out: Path) -> State | None:
    """Reads the coordinator's folder; None where nothing was provisioned yet.

    Raises:
        TrustError: others could read it, or it was altered.
        StateError: it is missing or older than the roster beside it.
    """
    path, roster = out / PRIVATE_FOLDER / COORDINATOR_STATE_FILE, out / ROSTER_FILE
    if not path.exists():
        if roster.exists():
            raise StateError(
                f"{path}: expected the state that {roster} was made from, found none",
                "bring private/ back from its backup, or begin a new federation in an empty folder (--out DIR)",
            )
        return None
    check_private(path.parent)
    state = _read_state(path)
    # A run writes the state first, so the roster beside it is never newer.
    if roster.exists():
        signed = read_limited(roster, MAX_ROSTER_BYTES)
        newest = read_roster(signed, state.ca_pem, project=state.project, at_least_version=1).version
        if newest > state.roster_version:
            raise StateError(
                f"{path}: expected the state of roster version {newest}, got that of version {state.roster_version}",
                "bring the newest private/ back from its backup",
            )
    return state


def _read_state(path: Path) -> State:
    try:
        return State.model_validate_json(read_private(path, MAX_STATE_BYTES))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise TrustError(
            f"{path}: not a state that this version of fedhe-provision wrote ({place}: {first['msg']})",
            "restore it from its backup",
        ) from error


def save_state(out: Path, state: State) -> None:
    """Replaces the coordinator's state in one step; on the disk before this returns.

    Raises:
        ResourceError: the disk does not take it; the old state is untouched.
    """
    write_private(out / PRIVATE_FOLDER / COORDINATOR_STATE_FILE, state.model_dump_json(indent=1).encode())


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Makes the coordinator's folder where it is missing, and keeps a second run out of it.

    Raises:
        StateError: another run is under way.
        ResourceError: the folder cannot be made.
    """
    make_private_folder(out)
    make_private_folder(out / PRIVATE_FOLDER)
    check_private(out / PRIVATE_FOLDER)
    path = out / PRIVATE_FOLDER / LOCK_FILE
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise file_error(error, path) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise StateError(f"{out}: another fedhe-provision is at work here", "wait until it has ended") from error
    finally:
        os.close(descriptor)
