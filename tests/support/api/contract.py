"""Holds answers of REST against the OpenAPI document: statuses that it names, bodies as it describes them."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import httpx
import jsonschema_rs

from cloutagent_server.envoy_config import config_directory
from tests.support.api.json_form import Json


@cache
def openapi() -> Json:
    """The checked-in OpenAPI document."""
    document: Json = json.loads((config_directory() / "openapi.json").read_text(encoding="utf-8"))
    return document


def assert_documented(rpc: str, response: httpx.Response) -> None:
    """The document says that the method may answer so."""
    answers = _operations()[rpc]["responses"]
    assert str(response.status_code) in answers, f"{rpc} answers with {response.status_code}, which is not documented"
    answer = answers[str(response.status_code)]
    if "$ref" in answer:
        answer = openapi()["components"]["responses"][answer["$ref"].rpartition("/")[2]]
    if "content" not in answer:
        assert response.content == b""
        return
    schema = answer["content"][response.headers["content-type"]]["schema"]
    assert_fits(schema["$ref"].rpartition("/")[2], response.json())


def assert_fits(schema: str, document: Any) -> None:
    """The document has the shape of the schema with this name, and no field that is not described."""
    _validator(schema).validate(document)


@cache
def _operations() -> dict[str, Json]:
    found = [operation for path in openapi()["paths"].values() for operation in path.values()]
    return {operation["operationId"][0].upper() + operation["operationId"][1:]: operation for operation in found}


@cache
def _validator(schema: str) -> Any:
    reference = {"$ref": f"#/components/schemas/{schema}", "components": _closed(openapi()["components"])}
    return jsonschema_rs.Draft202012Validator(reference, validate_formats=True)


def _closed(part: Any) -> Any:
    """The same with objects that have no other fields than those described. Callers shall pass over others, we not."""
    if isinstance(part, list):
        return [_closed(each) for each in part]
    if not isinstance(part, dict):
        return part
    closed = {name: _closed(value) for name, value in part.items()}
    if part.get("type") == "object" and isinstance(part.get("properties"), dict):
        closed["additionalProperties"] = False
    return closed
