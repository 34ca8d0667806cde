"""Fuzz targets: rosters, certificates, keys, signatures, sealed notes and checkpoints, kits.

A signature, checksum or seal would stop every input but the seeds. So where the first byte of an input is odd, the rest
is signed or sealed by the insecure project before it is read: what is behind the seal is read with as much distrust.
"""

import base64
import hashlib
import io
import json
import struct
from unittest import mock

import insecure_project as project
import numpy as np
from claims import MIB, Target, refusing
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding

from fedhe.client.checkpoint import open_checkpoint, plain_checkpoint
from fedhe.client.note import Note, read_note
from fedhe.errors import RemoteProtocolError, TrustError
from fedhe.model.layout import Layout, TensorSpec
from fedhe.provisioning import kit as kits
from fedhe.trust import roster as rosters
from fedhe.trust import sealed as seals
from fedhe.trust.certificates import MAX_CERTIFICATE_BYTES, identity_of, load_certificate, verify_certificate
from fedhe.trust.installation import GROUP_KEY_MAGIC, KIT_FILES, SECRET_FILES
from fedhe.trust.sealed import GroupKey, open_note
from fedhe.trust.signatures import JOB_LABEL, ROSTER_LABEL, parse_private_key, sign, verify

_ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")  # RFC 5758, section 3.2
_ROLES = ("server", "site", "admin-lead", "admin-observer")
_CHECKPOINT_VERSION = 7


class File:
    """A file in memory, as far as kits and private files need one."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def open(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)

    def __str__(self) -> str:
        return "hospitalA.kit"


def roster(data: bytes) -> None:
    """A signed roster; its form is text, so odd inputs are the JSON that is signed."""
    signed = data[1:]
    if data[:1] and data[0] & 1:
        body = signed.replace(b"\n", b" ")
        signature = base64.b64encode(sign(ROSTER_LABEL, body, project.authority_key()))
        signed = rosters._HEAD + body + b"\n" + signature + b"\n"
    with refusing(TrustError):
        found = rosters.read_roster(
            signed, project.authority().certificate_pem, project=project.NAME, at_least_version=1
        )
        assert found.project == project.NAME
        assert len(found.key_id) == 16
        assert found.sites is not None
        found.check(identity_of(project.certificate().certificate_pem), project.NOW)


def certificate(data: bytes) -> None:
    """A certificate in PEM or DER; odd inputs are what the authority signs."""
    der = data[1:]
    if data[:1] and data[0] & 1:
        signature = project.authority_key().sign(der, project.ECDSA)
        der = _der(0x30, der + _ECDSA_SHA256 + _der(0x03, b"\0" + signature))
    with refusing(TrustError):
        identity = verify_certificate(der, project.authority().certificate_pem, project.NOW)
        assert identity == identity_of(der)
        assert identity.project == project.NAME
        assert len(der) <= MAX_CERTIFICATE_BYTES
        project.roster_of(identity.serial).check(identity, project.NOW)


def authority(data: bytes) -> None:
    """The certificate in whose name another is believed, from a kit."""
    with refusing(TrustError):
        verify_certificate(project.certificate().certificate_pem, data, project.NOW)


def private_key(data: bytes) -> None:
    """A PEM key from a kit; odd inputs are the DER in it."""
    pem = data[1:]
    if data[:1] and data[0] & 1:
        pem = b"-----BEGIN PRIVATE KEY-----\n" + base64.encodebytes(pem) + b"-----END PRIVATE KEY-----\n"
    with refusing(TrustError):
        assert parse_private_key(pem).curve.name == "secp256r1"


def signature(data: bytes) -> None:
    """First byte: twice the signature's length. Then that, and what was signed; odd: whose certificate checks it."""
    mode, rest = (data[0], data[1:]) if data else (0, b"")
    signed, other = rest[: mode // 2], rest[mode // 2 :]
    with refusing(TrustError):
        if mode & 1:
            verify(JOB_LABEL, b"job", signed, other)
        else:
            verify(JOB_LABEL, other, signed, project.certificate().certificate_pem)


def note(data: bytes) -> None:
    """A note that another site sealed."""
    sealed = data[1:]
    if data[:1] and data[0] & 1:
        key = project.GROUP_KEY.derive(seals._NOTE, project.JOB_ID)
        sealed = project.sealed_with_fixed_nonce(key, sealed, project.NOTE_CONTEXT.to_bytes())
    with refusing(TrustError, RemoteProtocolError):
        found = read_note(open_note(project.GROUP_KEY, context=project.NOTE_CONTEXT, note=sealed))
        assert read_note(found.to_json()) == found


def checkpoint(data: bytes) -> None:
    """One piece of a checkpoint."""
    sealed = data[1:]
    if data[:1] and data[0] & 1:
        key = project.GROUP_KEY.derive(seals._CHECKPOINT, project.JOB_ID)
        place = seals._checkpoint_place(project.JOB_ID, _CHECKPOINT_VERSION, 0, 1)
        sealed = project.sealed_with_fixed_nonce(key, sealed, place)
    with refusing(TrustError, RemoteProtocolError):
        layout, vector = open_checkpoint(project.GROUP_KEY, project.JOB_ID, _CHECKPOINT_VERSION, [sealed], 1)
        assert vector.shape == (layout.n_values,)
        assert np.isfinite(vector).all()


def group_key(data: bytes) -> None:
    """A group key's file; odd inputs get their checksum."""
    file = data[1:]
    if data[:1] and data[0] & 1:
        file += hashlib.sha256(file).digest()
    with refusing(TrustError):
        assert GroupKey.from_bytes(file).to_bytes() == file


def kit(data: bytes) -> None:
    """A kit's file. Odd inputs: a byte for the role, and the plaintext in a kit that opens."""
    file = data[1:]
    if len(data) > 1 and data[0] & 1:
        file = _sealed_kit(_ROLES[data[1] % len(_ROLES)], data[2:])
    with mock.patch.object(kits, "_key", project.insecure_kit_key), refusing(TrustError):
        sealed = kits.read_kit(File(file))
        files = kits.open_kit(sealed, project.PASSPHRASE)
        assert set(KIT_FILES) <= set(files) <= {*KIT_FILES, *SECRET_FILES}
        assert sealed.label.role != "server" or set(files) == set(KIT_FILES)


def _sealed_kit(role: str, plaintext: bytes) -> bytes:
    label = kits.KitLabel(project=project.NAME, role=role, name="hospitalA", scrypt_log2_cost=15)
    encoded = label.model_dump_json().encode()
    salt, nonce = bytes(16), bytes(12)
    head = kits._MAGIC + struct.pack(">I", len(encoded)) + encoded + salt
    return head + nonce + AESGCM(project.insecure_kit_key(project.PASSPHRASE, salt, 15)).encrypt(nonce, plaintext, head)


def _der(tag: int, content: bytes) -> bytes:
    length = len(content).to_bytes(4, "big").lstrip(b"\0")
    return bytes([tag]) + (length if len(content) < 128 else bytes([0x80 | len(length)]) + length) + content


TARGETS = {
    "roster": Target(roster),
    "certificate": Target(certificate),
    "authority": Target(authority),
    "private_key": Target(private_key, max_bytes=2048),
    "signature": Target(signature, max_bytes=2048),
    "note": Target(note),
    "checkpoint": Target(checkpoint, bytes_per_byte=1000),
    "group_key": Target(group_key, max_bytes=512),
    "kit": Target(kit, max_bytes=8192, slack_bytes=2 * MIB),
}


def seeds() -> dict[str, list[bytes]]:
    """Valid inputs, each as it is and, where it can be, in the odd form."""
    signed = rosters.sign_roster(project.roster(), project.authority_key())
    issued = load_certificate(project.certificate().certificate_pem)
    der, tbs = issued.public_bytes(Encoding.DER), issued.tbs_certificate_bytes
    key_pem = project.certificate().key_pem
    key_der = base64.b64decode(b"".join(key_pem.splitlines()[1:-1]))
    proof = sign(JOB_LABEL, b"job", project.insecure_private_key())
    written = Note(12, {"conv.weight": 0.5, "bn.running_var": 2.0}, {"dice": 0.75}, "dice").to_json()
    layout = Layout((TensorSpec("w", (2, 1), "float32", False, 16), TensorSpec("v", (), "float16", True, 24)))
    plain = plain_checkpoint(layout, np.arange(3, dtype=np.float32))
    files = {name: base64.b64encode(name.encode()).decode() for name in (*KIT_FILES, *SECRET_FILES)}
    contents = json.dumps(files).encode()
    return {
        "roster": [b"\0" + signed, b"\1" + signed.split(b"\n")[1]],
        "certificate": [b"\0" + project.certificate().certificate_pem, b"\0" + der, b"\1" + tbs],
        "authority": [project.authority().certificate_pem],
        "private_key": [b"\0" + key_pem, b"\1" + key_der],
        "signature": [bytes([2 * len(proof)]) + proof + b"job", bytes([2 * len(proof) + 1]) + proof + der],
        "note": [b"\1" + written],
        "checkpoint": [b"\1" + plain],
        "group_key": [b"\0" + project.GROUP_KEY.to_bytes(), b"\1" + GROUP_KEY_MAGIC + b"\1" + bytes(32)],
        "kit": [b"\0" + _sealed_kit("site", contents), b"\1\1" + contents],
    }
