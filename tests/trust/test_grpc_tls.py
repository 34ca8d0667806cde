"""Real gRPC with mutual TLS: the issued certificates work, and no others do."""

import time
from concurrent import futures

import grpc
import pytest

from fedhe.errors import TrustError
from fedhe.trust.certificates import identity_of, verify_certificate

METHOD = "/test.Echo/WhoAmI"


class Echo(grpc.GenericRpcHandler):
    """Answers with the caller's certificate."""

    def service(self, handler_call_details):
        del handler_call_details
        return grpc.unary_unary_rpc_method_handler(lambda _, context: context.auth_context()["x509_pem_cert"][0])


@pytest.fixture(scope="module")
def peer(make_peer):
    """A project of today: TLS goes by the computer's clock."""
    return make_peer(now=time.time())


@pytest.fixture(scope="module")
def foreign_peer(make_peer):
    return make_peer(now=time.time())


@pytest.fixture
def serve(peer):
    servers = []

    def start(certificate):
        server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[Echo()])
        credentials = grpc.ssl_server_credentials(
            [(certificate.key_pem, certificate.certificate_pem)],
            root_certificates=peer.ca,
            require_client_auth=True,
        )
        port = server.add_secure_port("localhost:0", credentials)
        server.start()
        servers.append(server)
        return port

    yield start
    for server in servers:
        server.stop(None).wait()


@pytest.fixture
def port(serve, peer):
    return serve(peer.issue("server", "server", host="localhost"))


def call(host, port, ca, certificate=None):
    credentials = grpc.ssl_channel_credentials(
        ca,
        *((certificate.key_pem, certificate.certificate_pem) if certificate else (None, None)),
    )
    with grpc.secure_channel(f"{host}:{port}", credentials) as channel:
        return channel.unary_unary(METHOD)(b"", timeout=10)


@pytest.mark.parametrize("role", ["site", "admin-lead", "admin-observer"])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_participant_reaches_the_server_and_is_known_there(port, peer, host, role):
    issued = peer.issue(role, "someone@example.org")
    seen = verify_certificate(call(host, port, peer.ca, issued), peer.ca, peer.now)
    assert (seen.role, seen.name, seen.serial) == (role, "someone@example.org", issued.serial)


def refused(*arguments):
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_a_caller_without_a_certificate_is_refused(port, peer):
    refused("localhost", port, peer.ca)


def test_a_caller_with_a_certificate_of_a_foreign_authority_is_refused(port, peer, foreign_peer):
    refused("localhost", port, peer.ca, foreign_peer.issue())


def test_a_caller_with_an_expired_certificate_is_refused(port, peer):
    refused("localhost", port, peer.ca, peer.issue(now=peer.now - 10 * 86400, days=5))


def test_a_server_of_a_foreign_authority_is_refused(port, peer, foreign_peer):
    refused("localhost", port, foreign_peer.ca, peer.issue())


def test_a_site_cannot_pass_as_the_server(serve, peer):
    impostor = peer.issue("site", "hospitalB", host="localhost")
    refused("localhost", serve(impostor), peer.ca, peer.issue())


def test_the_server_cannot_call_as_a_site(port, peer):
    refused("localhost", port, peer.ca, peer.issue("server", "server", host="localhost"))


def test_a_server_under_another_name_is_refused(serve, peer):
    refused("localhost", serve(peer.issue("server", "server", host="fl.example.org")), peer.ca, peer.issue())


def test_a_certificate_that_passed_tls_is_still_checked_for_its_role(port, peer):
    stray = peer.issue("root", "x")
    with pytest.raises(TrustError, match="expected a role"):
        identity_of(call("localhost", port, peer.ca, stray))
