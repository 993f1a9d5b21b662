"""A stand-in for a CRM: an MCP server over HTTP on loopback, with one tool, which asks for a token.

Whose orders it tells is decided here. The model is asked to tell a customer about their own orders only, but what a
model is asked can be talked out of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

ORDERS = {
    "1042": {"customer": "Ada", "item": "reading lamp", "state": "shipped", "arrives": "2026-12-03"},
    "1043": {"customer": "Grace", "item": "desk", "state": "in production", "arrives": "2027-01-15"},
}
TOOL = {
    "name": "order",
    "description": "Looks an order of the customer up by its number.",
    "inputSchema": {"type": "object", "properties": {"number": {"type": "string"}}, "required": ["number"]},
}


@contextmanager
def serving(token: str, customer: str) -> Iterator[str]:
    """Serve it to whoever brings the token, which opens the orders of this customer alone; gives its URL."""

    class Crm(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if self.headers["authorization"] != f"Bearer {token}":
                self.answer(401, {})
            elif "id" not in request:
                self.answer(202, {})
            else:
                result = answer(request["method"], request.get("params", {}), customer)
                self.answer(200, {"jsonrpc": "2.0", "id": request["id"], "result": result})

        def do_GET(self) -> None:
            self.answer(405, {})

        def answer(self, status: int, document: dict[str, Any]) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Crm)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/mcp"
    finally:
        server.shutdown()
        server.server_close()


def answer(method: str, params: dict[str, Any], customer: str) -> dict[str, Any]:
    """The result of one request of the protocol that is made for this customer."""
    if method == "initialize":
        about = {"name": "crm", "version": "1"}
        return {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": about}
    if method == "tools/list":
        return {"tools": [TOOL]}
    if method == "tools/call":
        number = str(params["arguments"].get("number", ""))
        found = ORDERS.get(number)
        if found is not None and found["customer"] != customer:
            # As if it were not there: that it exists is not this customer's business either.
            found = None
        text = f"order {number}: {json.dumps(found)}" if found else f"there is no order {number}"
        return {"content": [{"type": "text", "text": text}], "isError": found is None}
    return {}
