"""What is known of the call under way: its id and who makes it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

import grpc

from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.service.auth import Principal

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(slots=True)
class Progress:
    """How far a stream has come.

    Attributes:
        cursor: The last event that was sent to the watcher; 0 if none was.
        stalled: Whether the call ends because its caller reads too slowly.
    """

    cursor: int = 0
    stalled: bool = False


API_KEY_METADATA: Final = "x-api-key"
REQUEST_ID_METADATA: Final = "x-request-id"
HTTP_CODE_METADATA: Final = "x-http-code"
_FORWARDED_METADATA: Final = "x-forwarded-for"
_TRANSCODED_METADATA: Final = "x-envoy-original-path"
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")

_principal: ContextVar[Principal] = ContextVar("principal")
_request_id: ContextVar[str] = ContextVar("request_id")
_project_id: ContextVar[str | None] = ContextVar("project_id", default=None)
_learned: ContextVar[dict[str, str]] = ContextVar("learned")
_progress: ContextVar[Progress] = ContextVar("progress")


def metadata_of(context: Context, name: str) -> str | None:
    """The value of a metadata entry of the call; None if it is absent or binary."""
    return next(iter(all_metadata_of(context, name)), None)


def all_metadata_of(context: Context, name: str) -> list[str]:
    """All values of a metadata entry of the call that are not binary, in the order in which they came."""
    entries: Iterable[tuple[str, str | bytes]] = context.invocation_metadata() or ()
    return [value for key, value in entries if key == name and isinstance(value, str)]


def source_of(context: Context) -> str:
    """The address that the call comes from, without a port; of IPv6 the network of 64 bits that one host may have.

    A peer on this machine, be it on loopback or on a Unix socket, is Envoy: then it is the address that Envoy saw and
    put into x-forwarded-for. What any other peer claims there is not believed.
    """
    kind, _, address = unquote(context.peer()).partition(":")
    peer = _address(address.rpartition(":")[0].strip("[]"))
    if kind == "unix" or (peer is not None and peer.is_loopback):
        # The last entry is the one that the peer itself wrote.
        peer = _address((metadata_of(context, _FORWARDED_METADATA) or "").rpartition(",")[2].strip()) or peer
    if isinstance(peer, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((peer, 64), strict=False))
    return kind if peer is None else str(peer)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def begin(context: Context) -> str:
    """Give the call its id: the one in `x-request-id` if it is well formed, else a new one."""
    given = metadata_of(context, REQUEST_ID_METADATA)
    request_id = given if given is not None and _REQUEST_ID.fullmatch(given) else new_id()
    _request_id.set(request_id)
    return request_id


def request_id() -> str:
    """The id of the call."""
    return _request_id.get()


def begin_stream() -> Progress:
    """Note that the call is a stream, of which nothing was sent yet."""
    progress = Progress()
    _progress.set(progress)
    return progress


def progress() -> Progress:
    """How far the stream has come. A call that is none stays at its beginning."""
    return _progress.get(None) or Progress()


def identify(principal: Principal) -> None:
    """Note who makes the call."""
    _principal.set(principal)


def caller() -> Principal:
    """Who makes the call. Raises LookupError in a method that anyone may call without a key."""
    return _principal.get()


def principal() -> Principal | None:
    """Who makes the call; None if that is not known, or needs no key."""
    return _principal.get(None)


def concerns(project_id: str | None) -> None:
    """Note which project the call is about, once it is clear that there is one and that the caller may know it."""
    _project_id.set(project_id)


def project_id() -> str:
    """The project that the call is about, or has made, or else the one whose key was used; `-` where there is none."""
    principal = _principal.get(None)
    own = None if principal is None or principal.project is None else principal.project.id
    return _project_id.get() or _learned.get({}).get("project_id") or own or "-"


def begin_record() -> None:
    """Note that the audit log has a record of the call, which tells how it ends."""
    _learned.set({})


def has_record() -> bool:
    """Whether the audit log has a record of the call."""
    return _learned.get(None) is not None


def learn(**ids: str) -> None:
    """Tell the audit log what the call has made, by the names of its resource: `project_id`, for example."""
    learned = _learned.get(None)
    if learned is not None:
        learned.update(ids)


def learned() -> dict[str, str]:
    """What the call has made."""
    return _learned.get()


def caller_id() -> str:
    """Stands for the caller in logs: the id of the key, or `-` without one."""
    principal = _principal.get(None)
    return "-" if principal is None else principal.key_id


def retry_metadata(context: Context, seconds: int | None) -> tuple[tuple[str, str], ...]:
    """Trailing metadata that has a REST caller receive Retry-After; none for a gRPC caller, who reads the RetryInfo."""
    if seconds is None or metadata_of(context, _TRANSCODED_METADATA) is None:
        return ()
    return (("retry-after", str(seconds)),)


async def answer_with(context: Context, http_code: int) -> None:
    """Have a REST caller receive this HTTP status on success. Does nothing for a gRPC caller."""
    if metadata_of(context, _TRANSCODED_METADATA) is not None:
        await context.send_initial_metadata(((HTTP_CODE_METADATA, str(http_code)),))
