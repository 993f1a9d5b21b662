"""Tiny MCP servers: a program for `python -c`, and one over HTTP on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from aiohttp import web

STDIO_SERVER = """
import json, os, sys
TOOLS = [{"name": name, "inputSchema": {"type": "object"}} for name in ("token", "spare")]
for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:
        continue
    method, result = message["method"], {}
    if method == "initialize":
        version = message["params"]["protocolVersion"]
        about = {"name": "t", "version": "1"}
        result = {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": about}
    elif method == "tools/list":
        result = {"tools": TOOLS}
    elif method == "tools/call":
        result = {"content": [{"type": "text", "text": "the token is " + os.environ["TOKEN"]}]}
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
"""


@dataclass
class HttpMcp:
    """A server of one tool, `shout`, that answers calls with a stream and notes the headers it gets."""

    url: str
    headers: list[dict[str, str]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request of the protocol."""
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        if request.method != "POST":
            return web.Response(status=405)
        message = await request.json()
        if "id" not in message:
            return web.Response(status=202)
        self.calls.append(message["method"])
        result: dict[str, object] = {}
        if message["method"] == "initialize":
            version = message["params"]["protocolVersion"]
            about = {"name": "t", "version": "1"}
            result = {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": about}
        elif message["method"] == "tools/list":
            result = {"tools": [{"name": "shout", "inputSchema": {"type": "object"}}]}
        elif message["method"] == "tools/call":
            shouted = str(message["params"]["arguments"].get("text", "")).upper()
            result = {"content": [{"type": "text", "text": f"{shouted}, said {request.headers['authorization']}"}]}
        answer = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result})
        response = web.StreamResponse(headers={"content-type": "text/event-stream", "mcp-session-id": "session-1"})
        await response.prepare(request)
        await response.write(b": it comes in pieces\n\n")
        await asyncio.sleep(0)
        await response.write(f"event: message\ndata: {answer}\n\n".encode())
        return response


@contextlib.asynccontextmanager
async def http_mcp() -> AsyncIterator[HttpMcp]:
    """A server over HTTP on a free port."""
    server = HttpMcp("")
    app = web.Application()
    app.router.add_route("*", "/tools", server.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    server.url = f"http://{host}:{port}/tools"
    try:
        yield server
    finally:
        await runner.cleanup()
