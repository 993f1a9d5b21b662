"""The OpenAPI document and its page, as Envoy serves them to anyone."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from cloutagent_server.envoy_config import config_directory
from tests.support.api.rest import http_client
from tests.support.api.stage import REST, Stage

pytestmark = pytest.mark.depths(REST)

PAGES = {
    "/api/openapi.json": ("openapi.json", "application/json"),
    "/api/docs": ("docs.html", "text/html; charset=utf-8"),
    "/api/docs.css": ("docs.css", "text/css; charset=utf-8"),
}


@pytest_asyncio.fixture(loop_scope="session")
async def http(stage: Stage) -> AsyncIterator[httpx.AsyncClient]:
    """A plain HTTP client."""
    assert stage.address is not None
    async with http_client(stage.address) as client:
        yield client


@pytest.mark.parametrize("path", PAGES)
async def test_it_is_served_as_it_is_checked_in_and_without_a_key(http: httpx.AsyncClient, path: str) -> None:
    name, kind = PAGES[path]
    for address in (path, f"{path}?anything=1"):
        response = await http.get(address)
        assert (response.status_code, response.headers["content-type"]) == (200, kind)
        assert response.content == (config_directory() / name).read_bytes()
        assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", PAGES)
async def test_head_answers_with_the_same_headers_and_no_body(http: httpx.AsyncClient, path: str) -> None:
    head, get = await http.head(path), await http.get(path)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-type", "content-length"):
        assert head.headers[name] == get.headers[name]


@pytest.mark.parametrize("path", PAGES)
async def test_it_takes_no_other_method_and_tells_those_it_takes(http: httpx.AsyncClient, path: str) -> None:
    options = await http.options(path)
    assert (options.status_code, options.headers["allow"], options.content) == (204, "GET, HEAD, OPTIONS", b"")
    for verb in ("POST", "PUT", "PATCH", "DELETE", "TRACE"):
        response = await http.request(verb, path)
        assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
        assert response.json()["code"] == 12


async def test_the_page_loads_its_style_and_nothing_else(http: httpx.AsyncClient) -> None:
    response = await http.get("/api/docs")
    policy = dict(part.split(maxsplit=1) for part in response.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["style-src"] == "'self'"
    assert "script-src" not in policy and "frame-ancestors" in policy
    loaded = re.findall(r'<(?:link|script|img|iframe)\b[^>]*?(?:href|src)="([^"]*)"', response.text)
    assert loaded == ["docs.css"]
    assert not re.search(r"<script|\son\w+=|style=|url\(|@import", response.text)
    assert (await http.get(str(httpx.URL("/api/docs").join(loaded[0])))).status_code == 200
