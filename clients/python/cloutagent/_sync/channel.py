# Generated from cloutagent/_async by `make generate`. Do not edit.
"""The connection to the server, and the stubs on it."""

from __future__ import annotations

from typing import Any, Final

import grpc

from cloutagent._configuration import Configuration
from cloutagent._identity import user_agent
from cloutagent._retry import RetryPolicy
from cloutagent.v1 import execution_pb2_grpc, project_pb2_grpc, secret_pb2_grpc, system_pb2_grpc

# A connection with a call under way on which nothing came for so long is asked whether it is alive, and given up when
# it does not answer for so long. A stream that is alive brings something every 15 seconds, so only a dead one is asked.
KEEPALIVE_MILLISECONDS: Final = (30_000, 10_000)


class Connection:
    """A channel and its stubs.

    Attributes:
        channel: The channel.
        projects, secrets, executions, system: The stubs of the services.
    """

    def __init__(self, configuration: Configuration) -> None:
        self.channel = _open(configuration)
        self.projects = project_pb2_grpc.ProjectServiceStub(self.channel)
        self.secrets = secret_pb2_grpc.SecretServiceStub(self.channel)
        self.executions = execution_pb2_grpc.ExecutionServiceStub(self.channel)
        self.system = system_pb2_grpc.SystemServiceStub(self.channel)


def _open(configuration: Configuration) -> grpc.Channel:
    """Does not connect yet."""
    endpoint = configuration.endpoint
    options = _options(configuration.retry, local=endpoint.local)
    if not endpoint.tls:
        return grpc.insecure_channel(endpoint.target, options)
    credentials = grpc.ssl_channel_credentials(configuration.root_certificates)
    return grpc.secure_channel(endpoint.target, credentials, options)


def _options(retry: RetryPolicy, *, local: bool) -> list[tuple[str, Any]]:
    first, longest = round(retry.first_delay * 1000), round(retry.longest_delay * 1000)
    return [
        ("grpc.primary_user_agent", user_agent()),
        # An answer is bounded by the server; a batch of large events may have more than the 4 MiB of gRPC's default.
        ("grpc.max_receive_message_length", -1),
        ("grpc.initial_reconnect_backoff_ms", first),
        ("grpc.max_reconnect_backoff_ms", longest),
        ("grpc.keepalive_time_ms", KEEPALIVE_MILLISECONDS[0]),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_MILLISECONDS[1]),
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_MILLISECONDS[1]),
        # Else gRPC would ask twice, and then but once a minute until the client has something to send.
        ("grpc.http2.max_pings_without_data", 0),
        # Each client has a connection of its own, and gives it up when it is closed.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0 if local else 1),
    ]
