"""A small project with an authority, certificates and rosters, and kit folders laid out by hand."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fedhe.config.project import HeSection
from fedhe.provisioning.issue import Issued, issue_certificate, make_authority, server_hosts
from fedhe.trust.installation import KitDocument
from fedhe.trust.roster import Participant, Revocation, Roster, sign_roster
from fedhe.trust.sealed import GroupKey
from fedhe.trust.signatures import parse_private_key

NOW = 1_800_000_000.0
KEY_ID = bytes(range(16))


@dataclass
class ProjectPeer:
    """The coordinator of a project, in memory."""

    name: str = "brain-mri"
    now: float = NOW
    authority: Issued = field(init=False)

    def __post_init__(self):
        self.authority = make_authority(self.name, days=3650, now=self.now)

    def issue(self, role="site", name="hospitalA", *, days=365, now=None, host=None, project=None):
        return issue_certificate(
            self.authority,
            project=project or self.name,
            role=role,
            name=name,
            hosts=server_hosts(host) if host else (),
            days=days,
            now=self.now if now is None else now,
        )

    @property
    def ca(self):
        return self.authority.certificate_pem

    @property
    def ca_key(self):
        return parse_private_key(self.authority.key_pem)

    def roster(self, *members, version=1, revoked=(), key_id=KEY_ID):
        """`members`: tuples of name, role and what `issue` gave."""
        listed = tuple(Participant(name, role, issued.serial, issued.not_after) for name, role, issued in members)
        gone = tuple(Revocation(name, issued.serial, self.now, "stolen") for name, issued in revoked)
        return Roster(self.name, version, self.now, key_id, 2, listed, gone)

    def sign(self, roster):
        return sign_roster(roster, self.ca_key)

    def lay_out(self, folder: Path, role="site", name="hospitalA", *, issued=None, secrets=None, **changes):
        """Writes a kit folder as an installation would; returns the participant's folder."""
        issued = issued or self.issue(role, name)
        secrets = role == "site" if secrets is None else secrets
        document = KitDocument(
            project=self.name,
            project_version="1",
            name=name,
            role=role,
            host="localhost",
            port=8443,
            he=HeSection(),
            engine="seal",
            key_id=KEY_ID.hex() if secrets else None,
        )
        files = {
            "kit.json": document.model_dump_json().encode(),
            "ca.pem": self.ca,
            "cert.pem": issued.certificate_pem,
            "key.pem": issued.key_pem,
            "roster.signed": self.sign(self.roster((name, role, issued))),
        }
        if secrets:
            files |= {"he.key": b"FEDHE not really a key", "group.key": GroupKey(bytes(32)).to_bytes()}
        files |= changes.get("files", {})
        kit = folder / "kit"
        kit.mkdir(parents=True)
        folder.chmod(0o700)
        kit.chmod(0o700)
        for file, data in files.items():
            if data is not None:
                (kit / file).write_bytes(data)
                (kit / file).chmod(0o600)
        return folder


@pytest.fixture(scope="session")
def peer():
    return ProjectPeer()


@pytest.fixture(scope="session")
def foreign_peer():
    """Another project that happens to have the same name."""
    return ProjectPeer()


@pytest.fixture(scope="session")
def make_peer():
    return ProjectPeer


@pytest.fixture(scope="session")
def now():
    return NOW


@pytest.fixture(scope="session")
def key_id():
    return KEY_ID
