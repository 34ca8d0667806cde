"""Certificates: who they name, and every way in which one must not be believed."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from fedhe.errors import TrustError
from fedhe.trust.certificates import MAX_CERTIFICATE_BYTES, identity_of, verify_certificate

DAY = 86400


@pytest.mark.parametrize("role", ["server", "site", "admin-lead", "admin-observer"])
def test_project_role_and_name_are_in_the_certificate(peer, now, role):
    issued = peer.issue(role, "someone@example.org")
    identity = verify_certificate(issued.certificate_pem, peer.ca, now)
    assert (identity.project, identity.role, identity.name) == ("brain-mri", role, "someone@example.org")
    assert identity.serial == issued.serial
    assert identity.not_after == issued.not_after == now + 365 * DAY
    assert len(identity.fingerprint) == 32


def test_pem_and_der_name_the_same(peer):
    pem = peer.issue().certificate_pem
    der = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    assert identity_of(pem) == identity_of(der)


def test_an_expired_certificate_is_refused_with_its_day(peer, now):
    issued = peer.issue(days=10)
    with pytest.raises(TrustError, match="site hospitalA: expired on 2027-01-25") as caught:
        verify_certificate(issued.certificate_pem, peer.ca, now + 10 * DAY)
    assert "--renew" in caught.value.hint
    verify_certificate(issued.certificate_pem, peer.ca, now + 10 * DAY - 1)


def test_a_certificate_of_tomorrow_is_refused(peer, now):
    issued = peer.issue(now=now + DAY)
    with pytest.raises(TrustError, match="not valid before") as caught:
        verify_certificate(issued.certificate_pem, peer.ca, now)
    assert "clock" in caught.value.hint


def test_a_clock_that_is_half_an_hour_behind_does_no_harm(peer, now):
    verify_certificate(peer.issue().certificate_pem, peer.ca, now - 1800)


def test_a_certificate_of_a_foreign_authority_of_the_same_name_is_refused(peer, foreign_peer, now):
    with pytest.raises(TrustError, match="foreign authority"):
        verify_certificate(foreign_peer.issue().certificate_pem, peer.ca, now)


def test_a_certificate_of_another_project_is_refused(peer, make_peer, now):
    with pytest.raises(TrustError, match="foreign authority"):
        verify_certificate(make_peer("liver-ct").issue().certificate_pem, peer.ca, now)
    with pytest.raises(TrustError, match="expected project brain-mri, got 'liver-ct'"):
        verify_certificate(peer.issue(project="liver-ct").certificate_pem, peer.ca, now)


def test_the_authority_is_no_participant(peer, now):
    with pytest.raises(TrustError, match="expected a role"):
        verify_certificate(peer.ca, peer.ca, now)


def test_a_participant_cannot_issue_certificates(peer, now):
    site = peer.issue()
    with pytest.raises(TrustError, match="expected a certificate that may issue others"):
        verify_certificate(peer.issue().certificate_pem, site.certificate_pem, now)


def test_an_unknown_role_is_refused(peer, now):
    with pytest.raises(TrustError, match="expected a role out of server, site"):
        verify_certificate(peer.issue("root").certificate_pem, peer.ca, now)


def test_an_altered_certificate_is_refused(peer, now):
    der = bytearray(x509.load_pem_x509_certificate(peer.issue().certificate_pem).public_bytes(Encoding.DER))
    place = der.index(b"hospitalA")
    der[place : place + 9] = b"hospitalB"
    with pytest.raises(TrustError, match="foreign authority"):
        verify_certificate(bytes(der), peer.ca, now)


def test_a_certificate_does_not_outlive_its_authority(make_peer, now):
    peer = make_peer()
    late = now + 3600 * DAY
    assert peer.issue(now=late).not_after == peer.authority.not_after
    with pytest.raises(TrustError, match="the authority of project brain-mri expired"):
        peer.issue(now=peer.authority.not_after)


def test_each_certificate_has_one_purpose(peer):
    for role, purpose in (("server", ExtendedKeyUsageOID.SERVER_AUTH), ("site", ExtendedKeyUsageOID.CLIENT_AUTH)):
        certificate = x509.load_pem_x509_certificate(peer.issue(role, "x", host="fl.example.org").certificate_pem)
        extensions = certificate.extensions
        assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [purpose]
        assert not extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
        authority = x509.load_pem_x509_certificate(peer.ca)
        assert (
            extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
            == authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
        )


def test_only_a_localhost_server_has_localhost_names(peer):
    def names(host):
        certificate = x509.load_pem_x509_certificate(peer.issue("server", "server", host=host).certificate_pem)
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return [str(name.value) for name in found]

    assert names("fl.example.org") == ["fl.example.org"]
    assert names("10.1.2.3") == ["10.1.2.3"]
    assert names("localhost") == ["localhost", "127.0.0.1", "::1"]


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_in_one_way(data):
    with pytest.raises(TrustError):
        identity_of(data)


@given(position=st.integers(0, 10_000), value=st.integers(0, 255))
def test_a_certificate_with_one_other_byte_is_refused_or_the_same(peer, now, position, value):
    der = bytearray(x509.load_pem_x509_certificate(peer.issue().certificate_pem).public_bytes(Encoding.DER))
    position %= len(der)
    if der[position] == value:
        return
    der[position] = value
    with pytest.raises(TrustError):
        verify_certificate(bytes(der), peer.ca, now)


def test_a_certificate_of_an_unknown_version_is_refused(peer, now):
    der = x509.load_pem_x509_certificate(peer.issue().certificate_pem).public_bytes(Encoding.DER)
    version = bytes.fromhex("a003020102")
    assert version in der
    with pytest.raises(TrustError, match="expected PEM or DER"):
        verify_certificate(der.replace(version, bytes.fromhex("a003020109"), 1), peer.ca, now)


def test_a_huge_certificate_is_not_parsed():
    with pytest.raises(TrustError, match="expected at most 16384 bytes"):
        identity_of(b"\x30" * (MAX_CERTIFICATE_BYTES + 1))
