"""The API's methods as operations on paths."""

from __future__ import annotations

import re
from typing import Any

from scripts.openapi import errors
from scripts.openapi.descriptors import Api, Route
from scripts.openapi.rules import Json, keywords
from scripts.openapi.schemas import Schemas

_KEY: Json = {"apiKey": []}
_STREAM = "google.api.HttpBody"
# What the comments of streams name that can be resumed.
_RESUMING = "`Last-Event-ID`"
# Verbs of methods whose answer over REST is 201; all that a DELETE answers with is 204.
_CREATING = ("Create", "Start")


def paths(api: Api, schemas: Schemas) -> Json:
    """The paths with their operations."""
    found: dict[str, Json] = {}
    for method in api.methods:
        route = api.route(method)
        if route is not None:
            template = re.sub(r"{([^}]+)}", lambda variable: f"{{{_spelled(variable[1])}}}", route.template)
            found.setdefault(template, {})[route.verb] = _Operation(api, schemas, method, route).document()
    return dict(sorted(found.items()))


def tag(service: Any) -> str:
    """What the operations of a service are listed under: ProjectService is `Project`."""
    name: str = service.name.removesuffix("Service")
    return name


class _Operation:
    """One method with its route."""

    def __init__(self, api: Api, schemas: Schemas, method: Any, route: Route) -> None:
        self._api, self._schemas, self._method, self._route = api, schemas, method, route
        self._fields = method.input_type.fields_by_name
        self._comment = api.text(method)
        self._in_path = {variable.partition(".")[0] for variable in route.variables}

    def document(self) -> Json:
        parameters = [*self._path_parameters(), *self._query_parameters(), *self._header_parameters()]
        document: Json = {
            "operationId": self._method.name[0].lower() + self._method.name[1:],
            "summary": re.split(r"(?<=\.)\s|:\s", self._comment, maxsplit=1)[0].removesuffix("."),
            "description": self._comment,
            "tags": [tag(self._method.containing_service)],
            "security": self._security(),
        }
        if parameters:
            document["parameters"] = parameters
        if self._route.body:
            document["requestBody"] = self._body()
        document["responses"] = {
            **{str(status): self._success(status) for status in self._successes()},
            **{
                str(status): errors.reference(status)
                for status in errors.statuses(self._api, self._method, self._route)
            },
        }
        return document

    def _security(self) -> list[Json]:
        access = self._api.option(self._method, "cloutagent.v1.access")
        if access.anyone:
            return []
        return [{}, _KEY] if access.anyone_until_admin_key else [_KEY]

    def _path_parameters(self) -> list[Json]:
        return [self._parameter("path", _spelled(path), self._field(path)) for path in self._route.variables]

    def _field(self, path: str) -> Any:
        *outer, last = path.split(".")
        message = self._method.input_type
        for name in outer:
            message = message.fields_by_name[name].message_type
        return message.fields_by_name[last]

    def _query_parameters(self) -> list[Json]:
        if self._route.body == "*":
            return []
        bound = self._in_path | {self._route.body}
        return [
            each
            for name, field in self._fields.items()
            if name not in bound
            for each in self._query(field, field.json_name)
        ]

    def _query(self, field: Any, name: str) -> list[Json]:
        message = field.message_type
        if message is None or message.full_name.startswith("google.protobuf."):
            return [self._parameter("query", name, field)]
        return [each for inner in message.fields for each in self._query(inner, f"{name}.{inner.json_name}")]

    def _parameter(self, place: str, name: str, field: Any) -> Json:
        schema = self._schemas.field(field, asked=True)
        if place == "path" and "format" not in schema and "pattern" not in schema:
            # Only a rule in CEL says it of a message that is also an answer.
            schema["format"] = "uuid"
        parameter: Json = {"name": name, "in": place}
        if place == "path" or self._schemas.is_required(field):
            parameter["required"] = True
        if description := schema.pop("description", ""):
            parameter["description"] = description
        return {**parameter, "schema": schema}

    def _header_parameters(self) -> list[Json]:
        found = []
        if "idempotency_key" in self._fields:
            rules = self._api.option(self._fields["idempotency_key"], "buf.validate.field")
            schema = {"type": "string", "pattern": "^[ -~]+$", **keywords(rules)}
            text = "Makes a repeated request safe. The same as `idempotencyKey` in the body; the two must not differ."
            found.append({"name": "Idempotency-Key", "in": "header", "description": text, "schema": schema})
        if _RESUMING in self._comment:
            text = "The `id` of the last event that the caller has seen: the stream goes on after it."
            schema = {"type": "integer", "minimum": 0, "maximum": 999_999_999}
            found.append({"name": "Last-Event-ID", "in": "header", "description": text, "schema": schema})
        return found

    def _body(self) -> Json:
        if self._route.body == "*":
            schema = self._schemas.request(self._method.input_type, without=self._in_path)
            needed = any(
                self._schemas.is_required(field) for name, field in self._fields.items() if name not in self._in_path
            )
        else:
            schema = self._schemas.request(self._fields[self._route.body].message_type)
            needed = self._schemas.is_required(self._fields[self._route.body])
        return {"required": needed, "content": {"application/json": {"schema": schema}}}

    def _successes(self) -> list[int]:
        if self._route.verb == "delete":
            return [204]
        if self._route.verb == "get" and _RESUMING in self._comment:
            # Whoever comes back after the last event is told to stop.
            return [200, 204]
        if not self._method.name.startswith(_CREATING):
            return [200]
        # What asks for the same again, or for nothing to be created, is answered with 200.
        return [200, 201] if "idempotency_key" in self._fields else [201]

    def _success(self, status: int) -> Json:
        answer: Json = {
            "description": self._api.text(self._method.output_type) or "The stream.",
            "headers": {"X-Request-Id": {"$ref": "#/components/headers/RequestId"}},
        }
        if status == 204:
            return answer
        if self._method.output_type.full_name == _STREAM:
            answer["content"] = self._stream()
        else:
            answer["content"] = {"application/json": {"schema": self._schemas.answer(self._method.output_type)}}
        return answer

    def _stream(self) -> Json:
        """Text streams: `x-item` is the schema of the JSON in each frame or line, for which OpenAPI 3.1 has no word."""
        item = "WatchUsageResponse" if "Usage" in self._method.name else "ExecutionEvent"
        reference = self._schemas.answer(self._api.message(item))
        events = "Server-sent events; the `data` of each is JSON. One named `error` holds a Status and ends the stream."
        lines = 'One JSON document a line. A last one `{"error": …}` holds a Status.'
        return {
            # Without a type: tools take a schema here for that of one frame.
            "text/event-stream": {"schema": {"description": events, "x-item": reference}},
            "application/x-ndjson": {"schema": {"type": "string", "description": lines, "x-item": reference}},
        }


def _spelled(path: str) -> str:
    """A path variable as a parameter's name: `project_id` and `project.id` are `projectId`."""
    head, *rest = re.split(r"[._]", path)
    return head + "".join(word.capitalize() for word in rest)
