"""What a measuring process is told, as JSON on standard input."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Final

# A server on this machine needs no proxy, and that the clients know it is not to count.
BARE_CHANNEL: Final = (("grpc.enable_http_proxy", 0),)


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be measured, and how often.

    Attributes:
        host: Where the API is, `host:port`, in plain text.
        api_key: The project's key.
        project_id: The project.
        execution_id: An execution that has ended.
        last: How many events it has.
        calls: Calls of a round, of each kind and each way.
        rounds: How often each way is measured.
        replays: How often all events are read by each way.
    """

    host: str
    api_key: str
    project_id: str
    execution_id: str
    last: int
    calls: int
    rounds: int
    replays: int

    @property
    def address(self) -> str:
        """Where the API is, as the clients take it."""
        return f"http://{self.host}"

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What a bare call carries."""
        return (("x-api-key", self.api_key),)


def read_order() -> Order:
    """The order of this process."""
    return Order(**json.load(sys.stdin))
