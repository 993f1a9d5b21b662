"""The whole OpenAPI document."""

from __future__ import annotations

from pathlib import Path

from scripts.openapi import errors, operations
from scripts.openapi.descriptors import PACKAGE, Api
from scripts.openapi.rules import Json
from scripts.openapi.schemas import Schemas

DESCRIPTION = """\
A self-hosted control plane for Claude agents: projects, their secrets, and executions that are watched live, metered \
by the token and stopped at their limits.

This document is made from the protos of the gRPC API, which the same port speaks. Names such as ListModels stand for \
the operation of that name, `listModels`.

JSON: fields have names in lowerCamelCase and may be left out where they are not required; unknown fields of a request \
are passed over. In answers, a field that is not required is absent when it is not set; 0, "", false and [] are \
written. Times are RFC 3339 in UTC, costs US dollars.

Errors are google.rpc.Status as JSON: `{"code", "message", "details"}`. Each status code has its HTTP status: \
INVALID_ARGUMENT, FAILED_PRECONDITION and OUT_OF_RANGE 400, UNAUTHENTICATED 401, PERMISSION_DENIED 403, NOT_FOUND 404, \
UNIMPLEMENTED 405, ABORTED and ALREADY_EXISTS 409, RESOURCE_EXHAUSTED 429, CANCELLED 499, INTERNAL and DATA_LOSS 500, \
UNAVAILABLE 503, DEADLINE_EXCEEDED 504."""

_PAGES = {
    "/api/openapi.json": ("getOpenApiDocument", "This document", "application/json", {"type": "object"}),
    "/api/docs": ("getDocumentation", "This document as a page for people", "text/html", {"type": "string"}),
}


def document(protos: Path) -> Json:
    """The document for the protos below `protos`.

    Raises:
        ProtocFailed: A file does not compile.
        UnknownRule: A validation rule has no translation.
    """
    api = Api(protos)
    schemas = Schemas(api)
    paths = {**operations.paths(api, schemas), **{path: _page(*said) for path, said in _PAGES.items()}}
    services = sorted(api.services, key=lambda service: str(service.name))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "CloutAgent",
            "version": PACKAGE.rpartition(".")[2],
            "description": DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "Where this document was found."}],
        "tags": [{"name": operations.tag(service), "description": api.text(service)} for service in services],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "apiKey": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "X-API-Key",
                    "description": "The key of a project, `cla_` and a UUID, or the operator's admin key.",
                }
            },
            "headers": errors.headers(),
            "responses": errors.responses(),
            "schemas": dict(sorted({**schemas.components, **errors.schemas(api)}.items())),
        },
    }


def _page(operation: str, summary: str, kind: str, schema: Json) -> Json:
    return {
        "get": {
            "operationId": operation,
            "summary": summary,
            "description": f"{summary}. Envoy answers it by itself.",
            "tags": ["System"],
            "security": [],
            "responses": {
                "200": {"description": f"{summary}.", "content": {kind: {"schema": schema}}},
                **{str(status): errors.reference(status) for status in (400, 405, 429, 431)},
            },
        }
    }
