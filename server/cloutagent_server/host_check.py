"""Ports of loopback without a key answer to no foreign names.

A web page can let its own name lead to this machine (DNS rebinding); its browser then lets it read what is answered
there. The name stands in the request's `Host`.
"""

from __future__ import annotations

import ipaddress
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

_LOCAL_NAME: Final = "localhost"


def middlewares_at(host: str) -> tuple[Middleware, ...]:
    """What an application that listens on `host`, a name or an IP address, is to be made with.

    On loopback only requests to `localhost` or to an IP address are answered, others by 404. Elsewhere any name may be
    the right one, and who reaches the port is for the network to say.
    """
    address = _address(host)
    on_loopback = _is_local(host) if address is None else address.is_loopback
    return (_refuse_foreign_names,) if on_loopback else ()


@web.middleware
async def _refuse_foreign_names(request: web.Request, handler: Handler) -> web.StreamResponse:
    named = request.headers.get("Host")
    if named is not None and not _is_own(named):
        return web.Response(status=404, text="only requests to localhost or to an IP address are answered here\n")
    return await handler(request)


def _is_own(named: str) -> bool:
    try:
        host = urlsplit(f"//{named}").hostname or ""
    except ValueError:
        return False
    return _is_local(host) or _address(host) is not None


def _is_local(name: str) -> bool:
    return name.lower().removesuffix(".") == _LOCAL_NAME


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
