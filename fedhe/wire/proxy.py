"""The way out through a hospital's web proxy (HTTP CONNECT), as the usual environment variables name it.

gRPC goes through the proxy that `grpc_proxy`, `https_proxy` or `http_proxy` names, but not to hosts in `no_proxy`; it
knows these names in small letters only. Many systems set HTTPS_PROXY and NO_PROXY, and nobody would find out why the
firewall says no. TLS is with the federation's server all the way: the proxy sees who talks to whom, and how much.
"""

from collections.abc import Mapping
from urllib.parse import urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # not in typeshed

from fedhe.errors import ConfigError
from fedhe.wire.channel import Option

KNOWN_TO_GRPC = ("grpc_proxy", "https_proxy", "http_proxy")
"""In the order in which gRPC takes the first that is set."""

SCHEME = "http"


def proxy_options(host: str, environment: Mapping[str, str]) -> list[Option]:
    """Options of a channel to `host` that has it go through the proxy that the environment names, if any.

    Raises:
        ConfigError: the variable does not name a proxy that can be used; gRPC would go without it, unasked.
    """
    name = next((one for one in (*KNOWN_TO_GRPC, "HTTPS_PROXY") if environment.get(one)), None)
    if name is None:
        return []
    url = environment[name]
    _check(name, url)
    listed = environment.get("no_grpc_proxy") or environment.get("no_proxy")
    if listed is None and proxy_bypass_environment(host, {"no": environment.get("NO_PROXY", "")}):
        return [("grpc.enable_http_proxy", 0)]
    return [("grpc.http_proxy", url)] if name not in KNOWN_TO_GRPC else []


def _check(name: str, url: str) -> None:
    try:
        parts = urlsplit(url)
        fits = parts.scheme == SCHEME and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if not fits:
        shown = url.rpartition("@")[2]  # what is before it may be a password
        raise ConfigError(
            f"{name}: expected http://HOST:PORT or http://USER:PASSWORD@HOST:PORT, got {shown[:80]!r}",
            "the connection to the proxy is plain HTTP; inside it, TLS goes to the federation's server",
        )
