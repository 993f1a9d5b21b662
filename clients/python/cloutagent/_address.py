"""Where a server is: a URL as REST callers write it, or host and port as gRPC's do."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from cloutagent.errors import ConfigurationError

DEFAULT_PORT: Final = 3001
_PORTS: Final = {"http": 80, "https": 443}
# Without it gRPC would take a host that is called like one of its schemes, such as `dns` or `unix`, for that.
_DNS: Final = "dns:///"
_NUMBERS: Final = "a port is a number from 1 to 65535, and an IPv6 address stands in brackets"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A parsed address.

    Attributes:
        target: What gRPC dials.
        tls: Whether the connection is encrypted.
        local: Whether it stays on this machine: loopback, or a Unix socket.
    """

    target: str
    tls: bool
    local: bool

    def __str__(self) -> str:
        if self.target.startswith("unix:"):
            return self.target
        return f"{'https' if self.tls else 'http'}://{self.target.removeprefix(_DNS)}"


def parse(address: str) -> Endpoint:
    """The endpoint of `https://host[:port]`, `http://host[:port]`, `host[:port]` or `unix:path`.

    Without a scheme, the connection is plain on loopback and TLS elsewhere, and the port is 3001 by default; with one
    it is the scheme's. Raises ConfigurationError.
    """
    address = address.strip()
    if address.startswith("unix:"):
        return Endpoint(address, tls=False, local=True)
    scheme, separator, _ = address.partition("://")
    try:
        parts = urlsplit(address if separator else f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise _malformed(_NUMBERS) from None
    if port == 0:
        raise _malformed(_NUMBERS)
    if (separator and scheme.lower() not in _PORTS) or host is None or "%" in host:
        raise _malformed("it is https://host:port, http://host:port, host:port or unix:path")
    if "@" in parts.netloc or parts.path.strip("/") or parts.query or parts.fragment:
        raise _malformed("it has no user, path or query; the API key is an argument of its own")
    local = _is_loopback(host)
    tls = scheme.lower() == "https" if separator else not local
    port = port or (_PORTS[scheme.lower()] if separator else DEFAULT_PORT)
    return Endpoint(f"{_DNS}[{host}]:{port}" if ":" in host else f"{_DNS}{host}:{port}", tls, local)


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _malformed(why: str) -> ConfigurationError:
    return ConfigurationError(f"the address is malformed: {why}")
