"""The roster: one signed, numbered document that says who takes part in a project, and which certificates are revoked.

Form: the line `fedhe-roster 1`, one line of JSON, one line with the Base64 of the authority's signature over that JSON.
The version only grows, so that an old roster, which does not know of a revocation, can be told from the newest one.
"""

import base64
import binascii
import json
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Annotated

from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedhe.errors import TrustError
from fedhe.trust.certificates import SITE, Identity
from fedhe.trust.signatures import ROSTER_LABEL, sign, verify

MAX_ROSTER_BYTES = 1024 * 1024
"""Largest roster that is read; 100 sites take about 12 KB."""
MAX_PARTICIPANTS = 2000
MAX_REVOCATIONS = 4000
MAX_VERSION = 2**31 - 1
LAST_SECOND = 253_402_300_799
"""The end of the year 9999, seconds since 1970 UTC; no day can be made of a later one."""

_HEAD = b"fedhe-roster 1\n"
_SERIAL = re.compile(r"[0-9a-f]{1,40}")


@dataclass(frozen=True)
class Participant:
    """A certificate that may take part; a participant whose certificate was renewed is listed with both for a while.

    Attributes:
        serial: the certificate's serial number.
        not_after: when it expires, seconds since 1970 UTC.
    """

    name: str
    role: str
    serial: int
    not_after: float


@dataclass(frozen=True)
class Revocation:
    """A certificate that may not take part any more.

    Attributes:
        serial: the certificate's serial number.
        when: seconds since 1970 UTC.
        reason: one line.
    """

    name: str
    serial: int
    when: float
    reason: str


@dataclass(frozen=True)
class Roster:
    """Who takes part in a project.

    Attributes:
        version: grows by one with every change, from 1.
        issued_at: seconds since 1970 UTC.
        key_id: id of the project's CKKS key, 16 bytes.
        min_sites: the fewest sites that any round of this project may sum.
        participants: sorted by name.
    """

    project: str
    version: int
    issued_at: float
    key_id: bytes
    min_sites: int
    participants: tuple[Participant, ...]
    revoked: tuple[Revocation, ...]

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the project's sites, sorted as UTF-8 bytes, each once."""
        return tuple(sorted({p.name for p in self.participants if p.role == SITE}, key=str.encode))

    def check(self, identity: Identity, now: float | None = None) -> None:
        """Refuses everybody but the certificates that this roster lists.

        Args:
            identity: of a certificate that `verify_certificate` believes.
            now: seconds since 1970 UTC; where given, a certificate that has expired meanwhile is refused too.

        Raises:
            TrustError: of another project, revoked, not listed, listed under another name or role, or expired.
        """
        who = f"{identity.role} {identity.name:.80}"
        if identity.project != self.project:
            raise TrustError(f"{who}: expected project {self.project:.80}, got {identity.project:.80}")
        for revocation in self.revoked:
            if revocation.serial == identity.serial:
                day = datetime.fromtimestamp(revocation.when, UTC).strftime("%Y-%m-%d")
                raise TrustError(
                    f"{who}: its certificate was revoked on {day} ({revocation.reason:.200})",
                    "ask the coordinator for a new kit if that was in error",
                )
        listed = [p for p in self.participants if p.serial == identity.serial]
        if not listed:
            raise TrustError(
                f"{who}: its certificate is not on roster version {self.version} of project {self.project}",
                "hand the newest roster.signed to the server, or install the newest kit",
            )
        if (listed[0].name, listed[0].role) != (identity.name, identity.role):
            raise TrustError(f"{who}: the roster lists its certificate as {listed[0].role:.40} {listed[0].name:.80}")
        if now is not None and now >= identity.not_after:
            day = datetime.fromtimestamp(identity.not_after, UTC).strftime("%Y-%m-%d")
            raise TrustError(f"{who}: its certificate expired on {day}", "ask the coordinator for a new kit")


class _Written(BaseModel):
    """What the signed JSON holds; serials are in hex, because JSON readers lose digits of large numbers."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


_Moment = Annotated[float, Field(ge=0, le=LAST_SECOND)]


class _WrittenParticipant(_Written):
    name: str
    role: str
    serial: str
    not_after: _Moment


class _WrittenRevocation(_Written):
    name: str
    serial: str
    when: _Moment
    reason: str


class _Body(_Written):
    project: str
    version: Annotated[int, Field(ge=1, le=MAX_VERSION)]
    issued_at: _Moment
    key_id: str
    min_sites: Annotated[int, Field(ge=2, le=MAX_PARTICIPANTS)]
    participants: list[_WrittenParticipant] = Field(max_length=MAX_PARTICIPANTS)
    revoked: list[_WrittenRevocation] = Field(max_length=MAX_REVOCATIONS)


def sign_roster(roster: Roster, ca_key: ec.EllipticCurvePrivateKey) -> bytes:
    """Writes a roster as canonical JSON, signed by the project's authority."""
    body = json.dumps(
        {
            **asdict(roster),
            "key_id": roster.key_id.hex(),
            "participants": [{**asdict(p), "serial": f"{p.serial:x}"} for p in roster.participants],
            "revoked": [{**asdict(r), "serial": f"{r.serial:x}"} for r in roster.revoked],
        },
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=True,
    ).encode()
    return _HEAD + body + b"\n" + base64.b64encode(sign(ROSTER_LABEL, body, ca_key)) + b"\n"


def read_roster(signed: bytes, ca_pem: bytes, *, project: str, at_least_version: int) -> Roster:
    """Reads a signed roster, and believes it only if the project's authority signed it and it is not an older one.

    Raises:
        TrustError: too large, not in the form of a roster, not signed by this authority, of another project, or older
            than `at_least_version`.
    """
    if len(signed) > MAX_ROSTER_BYTES:
        raise TrustError(f"roster: expected at most {MAX_ROSTER_BYTES} bytes, got {len(signed)}")
    if not signed.startswith(_HEAD):
        raise TrustError(
            f"roster: expected it to begin with {_HEAD!r}, got {signed[: len(_HEAD)]!r}",
            "take roster.signed as fedhe-provision wrote it, or install the kit again with --replace",
        )
    lines = signed[len(_HEAD) :].split(b"\n")
    if len(lines) != 3 or lines[2]:
        raise TrustError(f"roster: expected 3 lines, got {len(lines)}", "it was cut or altered; fetch it again")
    body, encoded, _ = lines
    try:
        signature = base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise TrustError("roster: expected its signature in Base64, got something else") from error
    verify(ROSTER_LABEL, body, signature, ca_pem)
    # What follows was written by the authority: a fault in it is a fault there, but it is checked all the same.
    try:
        roster = _from_body(_Body.model_validate_json(body))
    except (ValidationError, ValueError, RecursionError) as error:
        raise TrustError("roster: signed, but not readable by this version of fedhe", "update fedhe here") from error
    if roster.project != project:
        raise TrustError(f"roster: expected project {project}, got {roster.project:.80}")
    if roster.version < at_least_version:
        raise TrustError(
            f"roster: expected version {at_least_version} or newer, got {roster.version}",
            "an old roster does not know of later revocations; use the newest roster.signed",
        )
    return roster


def _from_body(body: _Body) -> Roster:
    key_id = bytes.fromhex(body.key_id)
    if len(key_id) != 16:
        raise ValueError(f"key id of {len(key_id)} bytes")
    return Roster(
        project=body.project,
        version=body.version,
        issued_at=body.issued_at,
        key_id=key_id,
        min_sites=body.min_sites,
        participants=tuple(Participant(p.name, p.role, _serial(p.serial), p.not_after) for p in body.participants),
        revoked=tuple(Revocation(r.name, _serial(r.serial), r.when, r.reason) for r in body.revoked),
    )


def _serial(text: str) -> int:
    if not _SERIAL.fullmatch(text):
        raise ValueError(f"serial {text!r:.80}")
    return int(text, 16)
