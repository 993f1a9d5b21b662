"""What a client was made with: arguments first, then the environment, then defaults."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cloutagent._address import Endpoint, parse
from cloutagent._retry import RetryPolicy
from cloutagent.errors import ConfigurationError

DEFAULT_ADDRESS: Final = "http://127.0.0.1:3001"
DEFAULT_TIMEOUT: Final = 30.0


@dataclass(frozen=True, slots=True)
class Configuration:
    """A client's settings.

    Attributes:
        endpoint: Where the server is.
        api_key: The key; None to call without one.
        project_id: The project that calls are about unless they name one.
        timeout: Seconds that a unary call may take, with all its attempts, unless the call says otherwise.
        retry: How patient the client is.
        root_certificates: PEM certificates of the authorities to believe; None for those that gRPC comes with.
        allow_plaintext_key: Whether keys and secrets may go to another machine without TLS, and come from there.
    """

    endpoint: Endpoint
    api_key: str | None = field(repr=False)
    project_id: str | None
    timeout: float
    retry: RetryPolicy
    root_certificates: bytes | None = field(repr=False)
    allow_plaintext_key: bool

    def require_confidential(self, what: str) -> None:
        """Raise ConfigurationError if this would be read on its way, there or back.

        A client without a key asks this before each call that has a secret or a new key in it or in its answer: the
        server would refuse most of them, but only after the value has gone out.
        """
        if not (self.endpoint.tls or self.endpoint.local or self.allow_plaintext_key):
            raise ConfigurationError(
                f"{what} would be sent in plain text between here and {self.endpoint}: use https://, or "
                "allow_plaintext_key=True on a network that nobody else reads"
            )


def configure(
    *,
    address: str | None,
    api_key: str | None,
    project_id: str | None,
    timeout: float,
    retry: RetryPolicy | None,
    ca_file: str | os.PathLike[str] | None,
    allow_plaintext_key: bool,
) -> Configuration:
    """The settings that these arguments and the environment give. Raises ConfigurationError."""
    endpoint = parse(address or os.environ.get("CLOUTAGENT_ADDRESS") or DEFAULT_ADDRESS)
    key = _key(os.environ.get("CLOUTAGENT_API_KEY") if api_key is None else api_key)
    if timeout <= 0:
        raise ConfigurationError("the timeout must be more than 0 seconds")
    if ca_file is not None and not endpoint.tls:
        raise ConfigurationError(f"ca_file is for TLS, and {endpoint} is plain")
    configuration = Configuration(
        endpoint,
        key,
        (os.environ.get("CLOUTAGENT_PROJECT_ID") if project_id is None else project_id) or None,
        timeout,
        retry or RetryPolicy(),
        None if ca_file is None else Path(ca_file).read_bytes(),
        allow_plaintext_key,
    )
    if key is not None:
        configuration.require_confidential("the API key")
    return configuration


def _key(given: str | None) -> str | None:
    """The key without what a file or shell puts around it. What gRPC would not send is refused, and not repeated."""
    key = (given or "").strip()
    if not all("\x20" < character < "\x7f" for character in key):
        raise ConfigurationError("the API key has characters that no key has")
    return key or None
