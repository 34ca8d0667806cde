"""Signatures: only the signer's, over these bytes, under this label."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from fedhe.errors import TrustError
from fedhe.trust.signatures import JOB_LABEL, READY_LABEL, parse_private_key, sign, verify


@pytest.fixture(scope="module")
def signer(peer):
    issued = peer.issue()
    der = x509.load_pem_x509_certificate(issued.certificate_pem).public_bytes(Encoding.DER)
    return parse_private_key(issued.key_pem), der


@given(body=st.binary(max_size=200))
def test_what_was_signed_verifies(signer, body):
    key, der = signer
    verify(READY_LABEL, body, sign(READY_LABEL, body, key), der)


def test_another_body_label_signature_or_signer_is_refused(signer, peer):
    key, der = signer
    signature = sign(READY_LABEL, b"body", key)
    other = x509.load_pem_x509_certificate(peer.issue(name="hospitalB").certificate_pem).public_bytes(Encoding.DER)
    for label, body, given_signature, certificate in (
        (READY_LABEL, b"bodY", signature, der),
        (JOB_LABEL, b"body", signature, der),
        (READY_LABEL, b"body", b"", der),
        (READY_LABEL, b"body", signature[:-1], der),
        (READY_LABEL, b"body", signature, other),
    ):
        with pytest.raises(TrustError, match="does not fit"):
            verify(label, body, given_signature, certificate)
    with pytest.raises(TrustError, match="at most 256 bytes"):
        verify(READY_LABEL, b"body", bytes(257), der)
    with pytest.raises(TrustError, match="certificate: expected PEM or DER"):
        verify(READY_LABEL, b"body", signature, b"nonsense")


@given(st.binary(max_size=256))
def test_no_random_signature_is_believed(signer, data):
    with pytest.raises(TrustError):
        verify(READY_LABEL, b"body", data, signer[1])


def test_only_unencrypted_p256_keys_are_taken():
    key = ed25519.Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(TrustError, match="expected a P-256 private key"):
        parse_private_key(pem)
    with pytest.raises(TrustError, match="expected an unencrypted PEM private key"):
        parse_private_key(b"nonsense")
