"""What `doctor` looks at by itself, without the client: the address, TLS, the clock.

What speaks TLS and HTTP takes a while to import, so it is imported by the checks that need it.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from cloutagent._address import Endpoint, parse
from cloutagent.cli.connection import Connection
from cloutagent.cli.endings import ExitCode

_TIMEOUT: Final = 5.0
_DAYS_LEFT: Final = 14
# Expiries and the times of filters are compared with the server's clock; HTTP tells it in whole seconds.
_SECONDS_APART: Final = 30.0


class Verdict(StrEnum):
    """What a check says."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found.

    Attributes:
        name: The check.
        verdict: Whether it is well.
        found: What there is.
        advice: What to do about it; empty for nothing.
        code: The exit code that it stands for if it failed.
    """

    name: str
    verdict: Verdict
    found: str
    advice: str = ""
    code: ExitCode = ExitCode.FAILED

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        known = {"check": self.name, "verdict": self.verdict.value, "found": self.found}
        return {**known, "advice": self.advice} if self.advice else known


def reachable(connection: Connection) -> Finding:
    """Whether something listens at the address."""
    where = f"{parse(connection.address)}, from {connection.address_source}"
    if connection.withheld:
        where += f" ({connection.withheld})"
    try:
        _open(parse(connection.address)).close()
    except socket.gaierror as error:
        return _unreachable(where, f"the name is not known: {error.strerror}", "look at the host's name")
    except TimeoutError:
        return _unreachable(where, "nothing answers", "look at the host, and at firewalls between here and there")
    except OSError as error:
        return _unreachable(where, str(error.strerror or error), "start the server, or look at host and port")
    return Finding("address", Verdict.OK, where)


def secure(connection: Connection) -> Finding:
    """Whether the connection is encrypted, and for how long its certificate is valid."""
    endpoint = parse(connection.address)
    if not endpoint.tls:
        if endpoint.local:
            return Finding("tls", Verdict.OK, "plain, on this machine")
        advice = "use https:// unless nobody else reads that network"
        return Finding("tls", Verdict.WARNING, "plain, to another machine", advice)
    import ssl

    context = ssl.create_default_context(cafile=connection.ca_file)
    context.set_alpn_protocols(["h2"])
    try:
        with context.wrap_socket(_open(endpoint), server_hostname=_host_and_port(endpoint)[0]) as encrypted:
            version, certificate = encrypted.version(), encrypted.getpeercert() or {}
            agreed = encrypted.selected_alpn_protocol()
    except ssl.SSLCertVerificationError as error:
        advice = "name the authority that issued the certificate: `cloutagent login --ca-file`"
        advice += ", or CLOUTAGENT_CA_FILE without --profile"
        return Finding("tls", Verdict.FAILED, f"the certificate is not believed: {error.verify_message}", advice)
    except OSError as error:
        return Finding("tls", Verdict.FAILED, str(error.strerror or error), "is it http:// that is spoken there?")
    if agreed != "h2":
        return Finding("tls", Verdict.FAILED, "HTTP/2 is not offered there", "a proxy on the way must let it through")
    ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate["notAfter"])), UTC)
    found = f"{version}, the certificate is valid until {ends:%Y-%m-%d}"
    if (ends - datetime.now(UTC)).days < _DAYS_LEFT:
        return Finding("tls", Verdict.WARNING, found, "the server needs a new certificate soon")
    return Finding("tls", Verdict.OK, found)


def clock(connection: Connection) -> Finding:
    """How far the server's clock is from that of this machine, by the date of an answer over REST."""
    endpoint = parse(connection.address)
    if endpoint.target.startswith("unix:"):
        return Finding("clock", Verdict.SKIPPED, "only Envoy tells the time")
    import http.client
    import ssl
    from email.utils import parsedate_to_datetime

    host, port = _host_and_port(endpoint)
    http_connection: http.client.HTTPConnection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT)
    if endpoint.tls:
        context = ssl.create_default_context(cafile=connection.ca_file)
        http_connection = http.client.HTTPSConnection(host, port, timeout=_TIMEOUT, context=context)
    try:
        http_connection.request("GET", "/api/health")
        told = http_connection.getresponse().headers["date"]
        theirs = parsedate_to_datetime(told)
    except (OSError, http.client.HTTPException, TypeError, ValueError):
        return Finding("clock", Verdict.SKIPPED, "only Envoy tells the time, and it is not there")
    finally:
        http_connection.close()
    # The date was cut to the second, so it is half a second late on average.
    apart = (datetime.now(UTC) - theirs).total_seconds() - 0.5
    found = f"{abs(apart):.0f} s {'ahead of' if apart > 0 else 'behind'} the server's"
    if abs(apart) <= _SECONDS_APART:
        return Finding("clock", Verdict.OK, "as the server's" if abs(apart) < 2 else found)
    return Finding("clock", Verdict.FAILED, found, "set the clock of this machine, or of the server")


def _unreachable(where: str, why: str, advice: str) -> Finding:
    return Finding("address", Verdict.FAILED, f"{where}: {why}", advice, ExitCode.UNAVAILABLE)


def _open(endpoint: Endpoint) -> socket.socket:
    if endpoint.target.startswith("unix:"):
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connected.connect(endpoint.target.removeprefix("unix:").removeprefix("//"))
        except BaseException:
            connected.close()
            raise
        return connected
    return socket.create_connection(_host_and_port(endpoint), timeout=_TIMEOUT)


def _host_and_port(endpoint: Endpoint) -> tuple[str, int]:
    host, _, port = str(endpoint).partition("://")[2].rpartition(":")
    return host.strip("[]"), int(port)
