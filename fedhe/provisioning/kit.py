"""The kit: one participant's files in a single file that only its passphrase opens.

Form: magic and version (12 bytes), length of the label (4 bytes, big-endian), the label, salt (16 bytes), nonce
(12 bytes), ciphertext. The label is JSON with project, role, name and log2 of scrypt's cost; it can be read without
the passphrase, so that a wrong kit is told before one is asked for, and it is authenticated with all before the nonce.
The key is scrypt's (RFC 7914), the cipher AES-256-GCM; the plaintext is JSON of file names and Base64 contents.
"""

import base64
import binascii
import json
import os
import secrets
import struct
import unicodedata
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from fedhe.config.document import FrozenModel
from fedhe.errors import TrustError
from fedhe.trust.certificates import ADMIN_LEAD, SITE
from fedhe.trust.installation import KIT_FILES, SECRET_FILES
from fedhe.trust.private_files import read_limited

KIT_SUFFIX = ".kit"
MAX_KIT_BYTES = 4 * 1024 * 1024
"""Largest kit that is read; a site's has about 150 KB."""
MAX_LABEL_BYTES = 1024
SCRYPT_LOG2_COST = 15
"""32 MiB and a tenth of a second a guess; our own passphrases have 100 bits and need no more."""
SCRYPT_LOG2_COST_RANGE = (15, 17)

PASSPHRASE_GROUPS = 5
_LEGIBLE = "abcdefghjkmnpqrstuvwxyz23456789"
"""Without i, l, o, 0 and 1, which people read wrongly; 31 characters give 4.95 bits each."""
_MAGIC = b"FEDHE-KIT\0\0\x01"
_SALT_BYTES = 16
_NONCE_BYTES = 12
_TAG_BYTES = 16


class WrongPassphraseError(TrustError):
    """The passphrase does not open the kit; or the kit was altered, which cannot be told apart."""


_Name = Annotated[str, StringConstraints(max_length=100, pattern=r"^[A-Za-z][A-Za-z0-9_.@+-]*$")]
"""As `fedhe.config.project` allows names; nothing that climbs out of a folder or steers a terminal."""


class KitLabel(FrozenModel):
    """What a kit says of itself before it is opened; to be believed only after."""

    project: _Name
    role: _Name
    name: _Name
    scrypt_log2_cost: Annotated[int, Field(ge=SCRYPT_LOG2_COST_RANGE[0], le=SCRYPT_LOG2_COST_RANGE[1])]


@dataclass(frozen=True)
class Sealed:
    """A kit that was read but not opened."""

    label: KitLabel
    head: bytes
    salt: bytes
    nonce: bytes
    ciphertext: bytes


_FILES = TypeAdapter(dict[str, str])


def make_passphrase() -> str:
    """A fresh passphrase of five groups of four characters, 99 bits, e.g. `k7mf-2xqa-…`."""
    groups = ("".join(secrets.choice(_LEGIBLE) for _ in range(4)) for _ in range(PASSPHRASE_GROUPS))
    return "-".join(groups)


def pack_kit(files: Mapping[str, bytes], passphrase: str, *, project: str, role: str, name: str) -> bytes:
    """Packs a participant's files.

    Raises:
        ValueError: not the files that a kit of this role has. The server's kit can hold no key that decrypts.
    """
    _check_files(files.keys(), role)
    label = KitLabel(project=project, role=role, name=name, scrypt_log2_cost=SCRYPT_LOG2_COST)
    encoded = label.model_dump_json().encode()
    salt, nonce = os.urandom(_SALT_BYTES), os.urandom(_NONCE_BYTES)
    head = _MAGIC + struct.pack(">I", len(encoded)) + encoded + salt
    plaintext = json.dumps({file: base64.b64encode(data).decode() for file, data in sorted(files.items())}).encode()
    return head + nonce + AESGCM(_key(passphrase, salt, SCRYPT_LOG2_COST)).encrypt(nonce, plaintext, head)


def read_kit(path: Path) -> Sealed:
    """Reads a kit as far as it can be read without its passphrase.

    Raises:
        NotFoundError: there is no such file.
        TrustError: not a kit, of a newer version, too large, or cut.
    """
    data = read_limited(path, MAX_KIT_BYTES)
    if not data.startswith(_MAGIC[:-1]):
        raise TrustError(f"{path}: expected a kit made by fedhe-provision, got another kind of file")
    if not data.startswith(_MAGIC):
        raise TrustError(f"{path}: expected a kit of version {_MAGIC[-1]}, got another", "update fedhe here")
    cut = TrustError(
        f"{path}: the kit was cut or altered, {len(data)} bytes came", "copy it again and compare the sizes"
    )
    begin = len(_MAGIC) + 4
    if len(data) < begin:
        raise cut
    (length,) = struct.unpack(">I", data[begin - 4 : begin])
    end = begin + length + _SALT_BYTES
    if length > MAX_LABEL_BYTES or len(data) < end + _NONCE_BYTES + _TAG_BYTES:
        raise cut
    try:
        label = KitLabel.model_validate_json(data[begin : begin + length])
    except ValidationError as error:
        raise cut from error
    nonce_end = end + _NONCE_BYTES
    return Sealed(label, data[:end], data[end - _SALT_BYTES : end], data[end:nonce_end], data[nonce_end:])


def open_kit(sealed: Sealed, passphrase: str) -> dict[str, bytes]:
    """Opens a kit to its files.

    Raises:
        WrongPassphraseError: wrong passphrase, cut or altered.
        TrustError: opened, but not the files that a kit of this role has.
    """
    label = sealed.label
    try:
        key = _key(passphrase, sealed.salt, label.scrypt_log2_cost)
        plaintext = AESGCM(key).decrypt(sealed.nonce, sealed.ciphertext, sealed.head)
    except InvalidTag as error:
        raise WrongPassphraseError(
            f"kit of {label.name}: does not open: wrong passphrase, or the file was cut or altered",
            "type the passphrase that the coordinator was shown for this very kit; copy the file again if it is right",
        ) from error
    try:
        files = {name: base64.b64decode(data, validate=True) for name, data in _FILES.validate_json(plaintext).items()}
        _check_files(files.keys(), label.role)
    except (ValidationError, binascii.Error) as error:  # their texts quote the content, which is secret
        raise TrustError(f"kit of {label.name}: opened, but its content is not file names and Base64") from error
    except ValueError as error:
        raise TrustError(f"kit of {label.name}: opened, but its content is not a kit's ({error})") from error
    return files


def _check_files(names: AbstractSet[str], role: str) -> None:
    """Which files a kit must and may have; so no kit can write anywhere else, and no server gets a key."""
    required = set(KIT_FILES)
    if role == SITE or (role == ADMIN_LEAD and names & set(SECRET_FILES)):
        required |= set(SECRET_FILES)
    if set(names) != required:
        raise ValueError(f"a kit of role {role} has the files {sorted(required)}, got {sorted(names)!s:.400}")


def _key(passphrase: str, salt: bytes, log2_cost: int) -> bytes:
    # Composed form, so that a passphrase with accents opens the kit whatever keyboard it is typed on.
    text = unicodedata.normalize("NFC", passphrase.strip())
    return Scrypt(salt=salt, length=32, n=1 << log2_cost, r=8, p=1).derive(text.encode())
