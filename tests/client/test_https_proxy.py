"""A site behind a web proxy reaches the server by CONNECT, with the same TLS; what the environment says is honoured."""

import asyncio
import base64
import contextlib

import grpc
import pytest

from fedhe.client.session import open_channel
from fedhe.errors import ConfigError
from fedhe.trust.installation import load_installation
from fedhe.wire import FederationServicer, FederationStub, add_FederationServicer_to_server, federation
from fedhe.wire.channel import server_options
from fedhe.wire.proxy import proxy_options

NAMES = ("grpc_proxy", "https_proxy", "http_proxy", "HTTPS_PROXY", "no_grpc_proxy", "no_proxy", "NO_PROXY")


class Hello(FederationServicer):
    async def Join(self, _request, context):  # noqa: N802 - gRPC names the method
        (certificate,) = context.auth_context()["x509_common_name"]
        return federation.JoinReply(software_version=certificate.decode())


class ConnectProxy:
    """Takes CONNECT requests and remembers them; asks for a password if it has one."""

    def __init__(self, password=None):
        self.password, self.asked, self.bytes = password, [], b""

    async def serve(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, target, _ = head.split("\r\n")[0].split()
        self.asked.append((method, target))
        wanted = self.password and f"Basic {base64.b64encode(self.password.encode()).decode()}"
        if wanted and f"proxy-authorization: {wanted}".lower() not in head.lower():
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            await writer.drain()
            writer.close()
            return
        host, _, port = target.rpartition(":")
        there, out = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.wait(
            [asyncio.ensure_future(self.move(reader, out)), asyncio.ensure_future(self.move(there, writer))],
            return_when=asyncio.FIRST_COMPLETED,
        )
        out.close()
        writer.close()

    async def move(self, reader, writer):
        with contextlib.suppress(OSError):
            while piece := await reader.read(65536):
                self.bytes += piece
                writer.write(piece)
                await writer.drain()


@pytest.fixture(autouse=True)
def no_proxy_of_this_computer(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


async def join(make_project, tmp_path, proxy, monkeypatch, *, user="", name="https_proxy", **environment):
    """Joins a real server through real TLS, with `name` naming the proxy; returns who the server saw."""
    made = make_project()
    server = grpc.aio.server(options=server_options())
    add_FederationServicer_to_server(Hello(), server)
    issued = made.members["server"][1]
    made.port = server.add_secure_port(
        "localhost:0",
        grpc.ssl_server_credentials(
            [(issued.key_pem, issued.certificate_pem)], root_certificates=made.ca, require_client_auth=True
        ),
    )
    await server.start()
    listening = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    monkeypatch.setenv(name, f"http://{user}127.0.0.1:{listening.sockets[0].getsockname()[1]}")
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    folder = made.install(tmp_path / "sites" / "A", "A")
    installation = load_installation(folder, role_prefix="site", now=made.now)
    try:
        async with open_channel(installation) as channel:
            return made, await FederationStub(channel).Join(federation.JoinRequest(), timeout=20)
    finally:
        listening.close()
        await server.stop(None)


@pytest.mark.parametrize("name", ["https_proxy", "HTTPS_PROXY", "grpc_proxy", "http_proxy"])
async def test_a_site_reaches_the_server_through_the_proxy(make_project, tmp_path, monkeypatch, name):
    proxy = ConnectProxy()
    made, reply = await join(make_project, tmp_path, proxy, monkeypatch, name=name)
    assert proxy.asked == [("CONNECT", f"localhost:{made.port}")]
    assert reply.software_version == "A", "the certificate that the server saw is the site's"
    assert b"Federation" not in proxy.bytes, "what the proxy sees is TLS"


async def test_a_proxy_that_asks_for_a_password_gets_it(make_project, tmp_path, monkeypatch):
    proxy = ConnectProxy("ward:secret")
    await join(make_project, tmp_path, proxy, monkeypatch, user="ward:secret@", name="HTTPS_PROXY")
    assert len(proxy.asked) == 1


async def test_a_proxy_that_refuses_is_told_as_such(make_project, tmp_path, monkeypatch):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await join(make_project, tmp_path, ConnectProxy("ward:secret"), monkeypatch)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "407" in caught.value.details()


@pytest.mark.parametrize(
    ("proxy_name", "no_proxy"),
    [
        ("https_proxy", "no_proxy"),
        ("HTTPS_PROXY", "NO_PROXY"),
        ("HTTPS_PROXY", "no_proxy"),
        ("https_proxy", "NO_PROXY"),
    ],
)
async def test_hosts_in_no_proxy_are_reached_without_it(make_project, tmp_path, monkeypatch, proxy_name, no_proxy):
    proxy = ConnectProxy()
    environment = {no_proxy: "example.org,localhost"}
    await join(make_project, tmp_path, proxy, monkeypatch, name=proxy_name, **environment)
    assert proxy.asked == []


@pytest.mark.parametrize(
    "url", ["https://proxy:3128", "proxy:3128", "http://", "http://proxy:99999", "socks5://proxy:1"]
)
def test_a_proxy_that_cannot_be_used_is_an_error_and_its_password_is_not_shown(url):
    with pytest.raises(ConfigError, match="HTTPS_PROXY: expected http://HOST:PORT") as caught:
        proxy_options("fedhe.example", {"HTTPS_PROXY": url.replace("://", "://ward:secret@")})
    assert "secret" not in caught.value.message


def test_without_a_proxy_nothing_is_changed():
    assert proxy_options("fedhe.example", {"NO_PROXY": "*", "https_proxy": ""}) == []
