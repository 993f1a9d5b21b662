# Generated from cloutagent/_async by `make generate`. Do not edit.
"""The client."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self

from cloutagent._configuration import DEFAULT_TIMEOUT, configure
from cloutagent._retry import RetryPolicy
from cloutagent._sync.executions import Executions
from cloutagent._sync.keys import Keys
from cloutagent._sync.projects import Projects
from cloutagent._sync.secrets import Secrets
from cloutagent._sync.system import System
from cloutagent._sync.usage import Usage


class Client:
    """A client of a CloutAgent server.

    Reads, and starts of executions, are made again when they fail for a moment. Other writes never are, since they may
    have been done. Every call has a deadline, which holds for its attempts together.

    Attributes:
        projects, keys, secrets, executions, usage, system: The calls, by what they are about.
    """

    def __init__(
        self,
        *,
        address: str | None = None,
        api_key: str | None = None,
        project_id: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        retry: RetryPolicy | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        allow_plaintext_key: bool = False,
    ) -> None:
        """Does not connect yet.

        Args:
            address: `https://host[:port]`, `http://host[:port]`, `host[:port]` or `unix:path`. Default:
                `CLOUTAGENT_ADDRESS`, else `http://127.0.0.1:3001`. Without a scheme it is plain on loopback and TLS
                elsewhere.
            api_key: The API key. Default: `CLOUTAGENT_API_KEY`; an empty one stands for none.
            project_id: The project of the calls that name none. Default: `CLOUTAGENT_PROJECT_ID`; without one, and with
                an empty one, it is the one that the key belongs to, which is asked for once.
            timeout: Seconds that a unary call may take, unless it says otherwise.
            retry: How patient the client is.
            ca_file: PEM certificates of the authorities to believe. Default: those that gRPC comes with.
            allow_plaintext_key: Whether keys and secrets may go to another machine without TLS, and come from there.

        Raises:
            ConfigurationError: The address is malformed, or the key would go to another machine in plain text. Without
                a key, calls with a secret or a new key in them or in their answer raise it for that, and send nothing.
        """
        configuration = configure(
            address=address,
            api_key=api_key,
            project_id=project_id,
            timeout=timeout,
            retry=retry,
            ca_file=ca_file,
            allow_plaintext_key=allow_plaintext_key,
        )
        # gRPC is two thirds of what there is to import.
        from cloutagent._sync.transport import Transport

        self._transport = Transport(configuration)
        self.projects = Projects(self._transport)
        self.keys = Keys(self._transport)
        self.secrets = Secrets(self._transport)
        self.executions = Executions(self._transport)
        self.usage = Usage(self._transport)
        self.system = System(self._transport)

    def close(self) -> None:
        """Give the connection back and end what is under way. Executions go on."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._transport.configuration.endpoint}>"
