"""The OpenAPI document as a page for people: plain HTML that needs no script and nothing from elsewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from html import escape
from typing import Any

from scripts.openapi.rules import Json

_RANGES = (("minimum", "≥ {}"), ("exclusiveMinimum", "> {}"), ("maximum", "≤ {}"), ("exclusiveMaximum", "< {}"))
_SIZES = (
    ("minLength", "at least {} characters"),
    ("maxLength", "at most {} characters"),
    ("minItems", "at least {} items"),
    ("maxItems", "at most {} items"),
    ("maxProperties", "at most {} entries"),
    ("pattern", "matches {}"),
)


def page(document: Json) -> str:
    """The page for a document that `document.document` made."""
    info = document["info"]
    operations = list(_operations(document))
    schemas = document["components"]["schemas"]
    parts = [
        "<!doctype html>",
        '<html lang="en">',
        "<!-- Generated from protos/ by `make generate`. Do not edit. -->",
        f'<head><meta charset="utf-8"><title>{escape(info["title"])} API</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<link rel="stylesheet" href="docs.css"></head>',
        "<body>",
        f"<nav>{_contents(document, operations)}</nav>",
        "<main>",
        f"<h1>{escape(info['title'])} API {escape(info['version'])}</h1>",
        _text(info["description"]),
        '<p>The same for programs: <a href="openapi.json">openapi.json</a></p>',
        f"<h2>Key</h2>{_text(_key(document))}",
    ]
    for tag in document["tags"]:
        parts.append(f'<h2 id="{_id("tag", tag["name"])}">{escape(tag["name"])}</h2>{_text(tag["description"])}')
        parts += [_operation(document, *each) for each in operations if tag["name"] in each[2]["tags"]]
    parts.append('<h2 id="schemas">Schemas</h2>')
    parts += [_schema(name, schema) for name, schema in schemas.items()]
    return "\n".join([*parts, "</main></body></html>", ""])


def _operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    for path, verbs in document["paths"].items():
        for verb, operation in verbs.items():
            yield path, verb, operation


def _contents(document: Json, operations: Iterable[tuple[str, str, Json]]) -> str:
    parts = []
    for tag in document["tags"]:
        name = tag["name"]
        links = [
            f'<li><a href="#{_id("operation", each["operationId"])}">{escape(each["operationId"])}</a></li>'
            for _, _, each in operations
            if name in each["tags"]
        ]
        parts.append(f'<p><a href="#{_id("tag", name)}">{escape(name)}</a></p><ul>{"".join(links)}</ul>')
    return "".join([*parts, '<p><a href="#schemas">Schemas</a></p>'])


def _key(document: Json) -> str:
    scheme = document["components"]["securitySchemes"]["apiKey"]
    return f"The header `{scheme['name']}` has it. {scheme['description']}"


def _operation(document: Json, path: str, verb: str, operation: Json) -> str:
    parts = [
        f'<section id="{_id("operation", operation["operationId"])}">',
        f"<h3>{escape(operation['operationId'])}</h3>",
        f'<p class="route"><b>{verb.upper()}</b> <code>{escape(path)}</code></p>',
        _text(operation["description"]),
        f"<p>{_who(operation['security'])}</p>",
    ]
    if parameters := operation.get("parameters"):
        given = [
            (f"<code>{escape(each['name'])}</code>", each["in"], _type(each["schema"]), _about(each))
            for each in parameters
        ]
        parts.append(_table(("Parameter", "in", "Type", "Meaning"), given))
    if body := operation.get("requestBody"):
        needed = "" if body["required"] else " May be left out."
        parts.append(f"<p>Body: {_content(body['content'])}.{needed}</p>")
    rows = [(status, _answer(document, answer)) for status, answer in operation["responses"].items()]
    parts += [_table(("Status", "Answer"), rows), "</section>"]
    return "\n".join(parts)


def _who(security: list[Json]) -> str:
    if not security:
        return "Needs no key."
    return "Needs no key until the operator has set an admin key." if {} in security else "Needs a key."


def _about(part: Json) -> str:
    required = "<b>required</b> " if part.get("required") else ""
    return f"{required}{_inline(part.get('description', ''))}"


def _answer(document: Json, answer: Json) -> str:
    name = answer.get("$ref", "").rpartition("/")[2]
    found = document["components"]["responses"][name] if name else answer
    content = f" {_content(found['content'])}" if "content" in found else ""
    return f"{_inline(found['description'])}{content}"


def _content(content: Json) -> str:
    said = []
    for kind, media in content.items():
        schema = media["schema"]
        item = f" of {_type(schema['x-item'])}" if "x-item" in schema else ""
        about = f": {_inline(schema['description'])}" if "description" in schema else ""
        said.append(f"<code>{escape(kind)}</code> {'' if item else _type(schema)}{item}{about}")
    return "<br>".join(said)


def _schema(name: str, schema: Json) -> str:
    parts = [f'<section id="{_id("schema", name)}">', f"<h3>{escape(name)}</h3>", _text(schema.get("description", ""))]
    required = schema.get("required", [])
    rows = [
        (f"<code>{escape(field)}</code>", _type(each), _about({**each, "required": field in required}))
        for field, each in schema.get("properties", {}).items()
    ]
    return "\n".join([*parts, _table(("Field", "Type", "Meaning"), rows) if rows else "", "</section>"])


def _type(schema: Json) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#{_id("schema", name)}">{escape(name)}</a>'
    if "oneOf" in schema:
        return " or ".join(_type(each) for each in schema["oneOf"])
    if "const" in schema:
        return f"<code>{escape(str(schema['const']))}</code>"
    if schema.get("type") == "array":
        return f"array of {_type(schema['items'])}{_limits(schema)}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"map of {_type(schema['additionalProperties'])}{_limits(schema)}"
    words = " or ".join(f"<code>{escape(each)}</code>" for each in schema.get("enum", ()))
    return (words or escape(str(schema.get("format", schema.get("type", ""))))) + _limits(schema)


def _limits(schema: Json) -> str:
    said = [text.format(_shown(schema[word])) for word, text in (*_RANGES, *_SIZES) if word in schema]
    return f"<br><small>{escape(', '.join(said))}</small>" if said else ""


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, (int, float)) else json.dumps(value, ensure_ascii=False)[1:-1]


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    heading = "".join(f"<th>{each}</th>" for each in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>\n" for row in rows)
    return f"<table><thead><tr>{heading}</tr></thead><tbody>\n{body}</tbody></table>"


def _text(text: str) -> str:
    """Paragraphs and lists."""
    parts = []
    for paragraph in text.strip().split("\n\n"):
        lines = paragraph.split("\n")
        if all(line.startswith("- ") for line in lines):
            parts.append(f"<ul>{''.join(f'<li>{_inline(line[2:])}</li>' for line in lines)}</ul>")
        elif paragraph:
            parts.append(f"<p>{_inline(paragraph)}</p>")
    return "\n".join(parts)


def _inline(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _id(kind: str, name: str) -> str:
    return escape(f"{kind}-{name}")
