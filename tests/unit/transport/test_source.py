"""Where a call comes from."""

from __future__ import annotations

from typing import Any

import pytest

from cloutagent_server.transport.context import source_of


class Call:
    """The part of a call's context that its source is told by."""

    def __init__(self, peer: str, forwarded: str | bytes | None) -> None:
        self._peer = peer
        self._forwarded = forwarded

    def peer(self) -> str:
        """As gRPC writes it."""
        return self._peer

    def invocation_metadata(self) -> list[tuple[str, str | bytes]]:
        """What came with the call."""
        return [] if self._forwarded is None else [("x-forwarded-for", self._forwarded)]


@pytest.mark.parametrize(
    ("peer", "forwarded", "source"),
    [
        ("ipv4:203.0.113.9:4711", None, "203.0.113.9"),
        ("ipv4:203.0.113.9:4711", "198.51.100.1", "203.0.113.9"),
        ("ipv4:127.0.0.1:4711", None, "127.0.0.1"),
        ("ipv4:127.0.0.1:4711", "198.51.100.1", "198.51.100.1"),
        ("ipv4:127.0.0.1:4711", "198.51.100.1, 198.51.100.2", "198.51.100.2"),
        ("ipv4:127.0.0.1:4711", "who knows", "127.0.0.1"),
        ("ipv4:127.0.0.1:4711", b"198.51.100.1", "127.0.0.1"),
        ("ipv6:%5B::1%5D:4711", "198.51.100.1", "198.51.100.1"),
        ("ipv6:[::1]:4711", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("ipv6:%5B2001:db8:1:2:3:4:5:6%5D:4711", "198.51.100.1", "2001:db8:1:2::/64"),
        ("ipv6:[::ffff:203.0.113.9]:4711", None, "203.0.113.9"),
        ("ipv6:[::ffff:127.0.0.1]:4711", "198.51.100.1", "198.51.100.1"),
        ("unix:", None, "unix"),
        ("unix:/run/server.sock", "198.51.100.1", "198.51.100.1"),
        ("", None, ""),
    ],
)
def test_the_source_is_the_peer_or_what_envoy_saw(peer: str, forwarded: Any, source: str) -> None:
    assert source_of(Call(peer, forwarded)) == source  # type: ignore[arg-type]
