"""An installed kit: reads a participant's `kit/` folder and refuses one that is open to others, altered or outdated."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import Field

from fedhe.config.document import FrozenModel, parse_document, validate
from fedhe.config.project import EngineName, HeSection
from fedhe.errors import ConfigError, NotFoundError, TrustError
from fedhe.he.params import CkksParams, CkksParamsLiteral
from fedhe.trust.certificates import ADMIN_LEAD, SERVER, Identity, load_certificate, verify_certificate
from fedhe.trust.private_files import check_private, file_error, read_limited, read_private, write_private
from fedhe.trust.roster import MAX_ROSTER_BYTES, Roster, read_roster
from fedhe.trust.signatures import parse_private_key

RolePrefix = Literal["server", "site", "admin"]

KIT_FOLDER = "kit"
KIT_JSON = "kit.json"
CA_FILE = "ca.pem"
CERTIFICATE_FILE = "cert.pem"
KEY_FILE = "key.pem"
ROSTER_FILE = "roster.signed"
HE_KEY_FILE = "he.key"
GROUP_KEY_FILE = "group.key"
KIT_FILES = (KIT_JSON, CA_FILE, CERTIFICATE_FILE, KEY_FILE, ROSTER_FILE)
"""What every kit has."""
SECRET_FILES = (HE_KEY_FILE, GROUP_KEY_FILE)
"""What the kits of sites and of admins who hold the keys have besides."""

COORDINATOR_STATE_FILE = "state.json"
"""In the coordinator's `private/` folder; holds every key of the project."""

HE_KEY_MAGIC = b"FEDHE-SECRET-KEY"
GROUP_KEY_MAGIC = b"FEDHE-GROUP-KEY\0"
KEY_MAGICS = {"CKKS secret key": HE_KEY_MAGIC, "group key": GROUP_KEY_MAGIC}
"""How files begin that decrypt; here, because the server looks for them and must not import what uses them."""

MAX_KIT_FILE_BYTES = 1024 * 1024
"""Largest file of a kit; the CKKS secret key is the largest, about 100 KB."""

_PROGRAMS = {"server": "fedhe-server", "site": "fedhe-client", "admin": "fedhe-admin"}


class KitDocument(FrozenModel):
    """What `kit.json` says; the certificate says the same of project, name and role, and is what counts.

    Attributes:
        key_id: hex id of the CKKS key in this kit; None in a kit without keys.
    """

    format: Literal[1] = 1
    project: str
    project_version: str
    name: str
    role: str
    host: str
    port: int = Field(ge=1, le=65535)
    he: HeSection
    engine: EngineName
    key_id: str | None = Field(None, pattern="^[0-9a-f]{32}$")


@dataclass(frozen=True)
class Installation:
    """An installed kit that passed every check.

    Attributes:
        folder: the participant's home; everything beside `kit/` belongs to its program.
        kit: the folder with the kit's files.
        role: "server", "site", "admin-lead" or "admin-observer".
        private_key_pem: secret; in no `repr`.
        roster: the newest signed roster that is stored here.
        key_id: id of the project's CKKS key, 16 bytes.
        engine: what encrypts at a site.
        holds_key: whether the kit has the project's keys.
    """

    folder: Path
    kit: Path
    project: str
    project_version: str
    name: str
    role: str
    server_host: str
    server_port: int
    ca_pem: bytes
    certificate_pem: bytes
    private_key_pem: bytes = field(repr=False)
    roster: Roster
    key_id: bytes
    he: CkksParamsLiteral
    engine: EngineName
    holds_key: bool
    identity: Identity

    @property
    def params(self) -> CkksParams:
        """The project's checked HE parameters."""
        return CkksParams.from_literal(self.he)

    @property
    def certificate_der(self) -> bytes:
        """The certificate as it goes beside a signature."""
        return load_certificate(self.certificate_pem).public_bytes(Encoding.DER)

    @property
    def signing_key(self) -> ec.EllipticCurvePrivateKey:
        """The key of the certificate. Secret."""
        return parse_private_key(self.private_key_pem)

    @property
    def address(self) -> str:
        """`host:port` of the server, as gRPC takes it."""
        host = f"[{self.server_host}]" if ":" in self.server_host else self.server_host
        return f"{host}:{self.server_port}"

    @property
    def signed_roster(self) -> bytes:
        """The newest roster that is stored here, with its signature, as it is passed on.

        Raises:
            TrustError: its file was opened to others or is too large.
        """
        return read_private(self.kit / ROSTER_FILE, MAX_ROSTER_BYTES)


def load_installation(folder: Path, *, role_prefix: RolePrefix, now: float) -> Installation:
    """Reads and checks the kit that is installed in a participant's folder.

    Args:
        folder: `HOME/server`, `HOME/sites/NAME` or `HOME/admins/NAME`.
        role_prefix: which program asks; the kit must be of that role.
        now: seconds since 1970 UTC.

    Raises:
        NotFoundError: no kit is installed there; the hint says how to install one.
        TrustError: modes looser than 0700 and 0600, another owner, a certificate that is expired, foreign or revoked,
            files that do not belong together, a kit of another role, or a file that is missing.
    """
    kit = folder / KIT_FOLDER
    if not kit.is_dir():
        raise NotFoundError(f"{kit}: no kit is installed here", f"{_PROGRAMS[role_prefix]} install KIT")
    check_private(folder)
    return read_kit_folder(kit, folder, role_prefix=role_prefix, now=now)


def read_kit_folder(kit: Path, folder: Path, *, role_prefix: RolePrefix, now: float) -> Installation:
    """Reads and checks the files of a kit that lie in `kit`; see `load_installation`."""
    check_private(kit)
    again = f"install the kit again: {_PROGRAMS[role_prefix]} install KIT --replace"
    try:
        files = {name: read_private(kit / name, MAX_KIT_FILE_BYTES) for name in KIT_FILES}
    except NotFoundError as error:
        raise TrustError(f"{error.message}, but every kit has it", again) from error
    document = _kit_document(files[KIT_JSON], kit / KIT_JSON, again)
    identity = verify_certificate(files[CERTIFICATE_FILE], files[CA_FILE], now)
    said = (document.project, document.role, document.name)
    if said != (identity.project, identity.role, identity.name):
        raise TrustError(f"{kit}: kit.json is of {said}, the certificate of {identity.role} {identity.name}", again)
    if identity.role.split("-")[0] != role_prefix:
        raise TrustError(
            f"{kit}: expected the kit of a participant with role {role_prefix}, got {identity}",
            f"use {_PROGRAMS[identity.role.split('-')[0]]} with this kit",
        )
    if _public_bytes(files) != _key_bytes(files, kit):
        raise TrustError(f"{kit}: {KEY_FILE} is not the key of {CERTIFICATE_FILE}", again)
    roster = read_roster(files[ROSTER_FILE], files[CA_FILE], project=identity.project, at_least_version=1)
    roster.check(identity)
    holds_key = _check_secret_files(kit, identity, again)
    return Installation(
        folder=folder,
        kit=kit,
        project=identity.project,
        project_version=document.project_version,
        name=identity.name,
        role=identity.role,
        server_host=document.host,
        server_port=document.port,
        ca_pem=files[CA_FILE],
        certificate_pem=files[CERTIFICATE_FILE],
        private_key_pem=files[KEY_FILE],
        roster=roster,
        key_id=_key_id(document, roster, identity, holds_key=holds_key),
        he=document.he.to_literal(),
        engine=document.engine,
        holds_key=holds_key,
        identity=identity,
    )


def _kit_document(data: bytes, path: Path, again: str) -> KitDocument:
    try:
        document = validate(KitDocument, parse_document(data.decode(), path))
        CkksParams.from_literal(document.he.to_literal())
    except (ConfigError, UnicodeDecodeError) as error:
        raise TrustError(
            f"{path}: not the kit.json of a kit that this version of fedhe knows ({error})", again
        ) from error
    return document


def _public_bytes(files: dict[str, bytes]) -> bytes:
    key = load_certificate(files[CERTIFICATE_FILE]).public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _key_bytes(files: dict[str, bytes], kit: Path) -> bytes:
    key = parse_private_key(files[KEY_FILE], str(kit / KEY_FILE)).public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _check_secret_files(kit: Path, identity: Identity, again: str) -> bool:
    """Whether the kit has the project's keys; both or none, as its role allows."""
    present = [name for name in SECRET_FILES if (kit / name).exists()]
    if identity.role == "site" or (identity.role == ADMIN_LEAD and present):
        missing = [name for name in SECRET_FILES if name not in present]
        if missing:
            raise TrustError(f"{kit}: {missing[0]} is missing", again)
        for name in present:
            check_private(kit / name)
        return True
    if present:
        raise _key_found(kit / present[0], "a key that decrypts", identity.role)
    return False


def _key_id(document: KitDocument, roster: Roster, identity: Identity, *, holds_key: bool) -> bytes:
    """A kit with keys must have the project's present ones; one without keys goes by the roster."""
    if not holds_key:
        return roster.key_id
    if document.key_id is None or bytes.fromhex(document.key_id) != roster.key_id:
        raise TrustError(
            f"kit of {identity}: expected the project's CKKS key {roster.key_id.hex()}, got key {document.key_id}",
            "the project was re-keyed; install the new kit with --replace",
        )
    return roster.key_id


def store_roster(installation: Installation, signed: bytes) -> Installation:
    """Keeps a newer signed roster in the kit folder, durably, and returns the installation with it.

    The same roster again is fine. The caller's own standing is not checked: a server must serve the roster that
    revokes it, too; `load_installation` refuses it at the next start.

    Raises:
        TrustError: not signed by the project's authority, of another project, or older than the one that is here.
        ResourceError: the disk does not take it; the old one is untouched.
    """
    roster = read_roster(
        signed, installation.ca_pem, project=installation.project, at_least_version=installation.roster.version
    )
    if roster.version == installation.roster.version and roster != installation.roster:
        raise TrustError(
            f"roster: version {roster.version} is here already with another content",
            "two rosters of one version were signed; ask the coordinator",
        )
    if roster.version > installation.roster.version:
        write_private(installation.kit / ROSTER_FILE, signed)
    key_id = installation.key_id if installation.holds_key else roster.key_id
    return replace(installation, roster=roster, key_id=key_id)


def assert_no_key_material(folder: Path) -> None:
    """Refuses a server's folder in which anything that decrypts is found.

    Files of the kit are searched whole; all other files below `folder` are looked at by name and by how they begin.

    Raises:
        TrustError: a CKKS secret key, a group key or the coordinator's state is there, or a file of that name; names
            the file.
    """
    kit = folder / KIT_FOLDER
    longest = max(len(magic) for magic in KEY_MAGICS.values())
    try:
        for path in sorted(folder.rglob("*")):
            if path.is_dir():
                continue
            if path.name in {*SECRET_FILES, COORDINATOR_STATE_FILE}:
                raise _key_found(path, "a key that decrypts", SERVER)
            if not path.is_file():  # a socket or pipe: reading it could wait for ever
                continue
            whole = path.parent == kit
            data = read_limited(path, MAX_KIT_FILE_BYTES) if whole else _beginning(path, longest)
            for what, magic in KEY_MAGICS.items():
                if (magic in data) if whole else data.startswith(magic):
                    raise _key_found(path, f"a {what}", SERVER)
    except OSError as error:
        raise file_error(error, folder) from error


def _beginning(path: Path, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(size)
    except FileNotFoundError:  # a blob that was dropped between listing and opening
        return b""


def _key_found(path: Path, what: str, role: str) -> TrustError:
    return TrustError(
        f"{path}: expected no key here, got {what}; a participant with role {role} must never have one",
        "delete the file, find out how it got there, and have the coordinator re-key (fedhe-provision --rekey)",
    )
