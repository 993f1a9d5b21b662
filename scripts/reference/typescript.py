"""The page of the TypeScript client, from its signatures and comments."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from scripts.openapi.descriptors import Api
from scripts.reference.exports import Json, exports, message_of
from scripts.reference.markdown import GENERATED, Links, anchor, item, paragraph, paragraphs

PAGE: Final = "typescript.md"
CLIENT: Final = "CloutAgentClient"

_LONG: Final = 88


def homes(proto_homes: Mapping[str, str]) -> Mapping[str, str]:
    """The page of every name that is explained here or on the pages of the protos.

    Raises:
        CompilerFailed: The exports of the package could not be read.
    """
    exported = (each for module in exports().values() for each in module)
    return {**proto_homes, **{each["name"]: PAGE for each in exported if message_of(each) != each["name"]}}


class TypeScriptPage:
    """The page of the client."""

    def __init__(self, api: Api, links: Links) -> None:
        """Raises CompilerFailed if the exports of the package could not be read."""
        self._api, self._links = api, links
        self._exports = {each["name"]: each for each in exports()["index"]}

    def text(self) -> str:
        """The page."""
        client = self._exports[CLIENT]
        resources = {each["name"]: each["type"] for each in client["members"] if each["kind"] == "property"}
        told = {CLIENT, "ClientOptions", *resources.values()}
        others = [each for each in self._exports.values() if each["kind"] != "type" and each["name"] not in told]
        sections = [
            *self._client(client),
            *(line for name, type_ in resources.items() for line in self._resource(name, self._exports[type_])),
            "## Types\n",
            paragraph("What calls take and return beside the messages of the API. `?` marks what may be left out."),
            *(
                line
                for each in others
                if each["module"] not in ("errors", "events", "watch")
                for line in self._members(each)
            ),
            "## Watches\n",
            *(line for each in others if each["module"] == "watch" for line in self._members(each)),
            *self._events(),
            "## Errors\n",
            paragraph(f"Everything thrown is a {self._links.to('CloutAgentError')}, but for the reason of a signal."),
            *(line for each in others if each["module"] == "errors" for line in self._members(each)),
            *self._messages(),
            *self._grpc_web(),
        ]
        start = [
            "# The TypeScript client\n",
            f"{GENERATED}\n",
            paragraph(
                "The package `cloutagent`, for Node and browsers. [typescript.md](../typescript.md) shows how it is "
                "used."
            ),
        ]
        return "\n".join([*start, *_contents(sections), *sections]).rstrip("\n") + "\n"

    def _client(self, client: Json) -> Iterator[str]:
        yield f"## {CLIENT}\n"
        made = next(each for each in client["members"] if each["kind"] == "constructor")
        yield _signature(f"new {CLIENT}", made)
        yield from self._comment(client)
        yield from self._called(made)
        yield from self._members(self._exports["ClientOptions"])
        yield from self._methods("client", client)

    def _resource(self, name: str, resource: Json) -> Iterator[str]:
        yield f"## client.{name}\n"
        yield from self._comment(resource)
        yield from self._methods(f"client.{name}", resource)

    def _methods(self, owner: str, declared: Json) -> Iterator[str]:
        for each in _named_methods(declared):
            yield f"### {owner}.{each['name']}\n"
            yield _signature(f"{owner}.{each['name']}", each)
            yield from self._called(each)

    def _called(self, called: Json) -> Iterator[str]:
        """What there is to say beside a signature."""
        yield from self._comment(called)
        if called["throws"]:
            yield "Throws:\n"
            yield from (item(self._links.within(" ".join(each.split()))) for each in called["throws"])
            yield ""
        yield from self._types([*(each["type"] for each in called["parameters"]), called["returns"]])

    def _members(self, declared: Json) -> Iterator[str]:
        """A class or an interface: its properties, and how its methods are called."""
        yield f"### {declared['name']}\n"
        bases = " and of ".join(self._links.to(each) for each in declared["bases"] if each in self._exports)
        if bases and declared["kind"] == "class":
            yield paragraph(f"A kind of {bases}.")
        yield from self._comment(declared)
        properties = [each for each in declared["members"] if each["kind"] == "property"]
        if bases and declared["kind"] == "interface":
            yield paragraph(f"The fields of {bases}, and:")
        yield from (self._property(each) for each in properties)
        if properties:
            yield ""
        yield from self._types(each["type"] for each in properties)
        for each in _named_methods(declared):
            owner = "storage" if declared["kind"] == "interface" else "watch"
            yield _signature(f"{owner}.{each['name']}", each)
            yield from self._called(each)

    def _property(self, declared: Json) -> str:
        type_ = declared["type"].removesuffix(" | undefined") if declared["optional"] else declared["type"]
        comment = self._links.within(" ".join(declared["comment"].split()))
        return item(f"**`{_marked(declared)}`** (`{type_}`){comment and f': {comment}'}")

    def _events(self) -> Iterator[str]:
        event, kinds = self._exports["ExecutionEvent"], self._exports["ExecutionEventKind"]
        yield f"## Events\n\n### {event['name']}\n"
        yield from self._comment(event)
        yield "| `kind` | field | what it has |\n|---|---|---|"
        for field in self._api.message("ExecutionEvent").oneofs_by_name["payload"].fields:
            if field.name in kinds["values"]:
                yield f"| `{field.name}` | `{field.json_name}` | {self._links.to(field.message_type.name)} |"
        yield f"\n### {kinds['name']}\n"
        yield from self._comment(kinds)
        yield paragraph(f"It is {_choice(kinds)}.")
        yield from self._members(self._exports["ExecutionEventBase"])

    def _messages(self) -> Iterator[str]:
        yield "## Messages\n"
        yield paragraph(
            "The messages of the API as its JSON has them: fields are in lowerCamelCase (`max_tokens` is `maxTokens`), "
            "times are texts as in RFC 3339, values of enums are their names in lower case, and what is absent is "
            "`undefined`. What the server always prints is there; all else may be absent."
        )
        aliases = [(each, message) for each in self._exports.values() if (message := message_of(each)) is not None]
        same = [each for each, message in aliases if message == each["name"]]
        for each in same:
            yield item(f"{self._links.to(each['name'])}: {self._links.within(' '.join(each['comment'].split()))}")
        yield ""
        for each, message in aliases:
            if each not in same:
                yield f"### {each['name']}\n"
                yield from self._comment(each)
                choice = f": {_choice(each)}" if each["values"] else ""
                yield paragraph(f"It is {self._links.to(message)}{choice}.")

    def _grpc_web(self) -> Iterator[str]:
        yield "## gRPC-Web\n"
        yield paragraph("`cloutagent/v1` has the generated messages and services, `cloutagent/grpc-web` this:")
        for each in sorted(exports()["grpc-web"], key=lambda each: str(each["kind"])):
            if each["kind"] == "function":
                yield f"### {each['name']}\n"
                yield _signature(each["name"], each)
                yield from self._called(each)
            else:
                yield from self._members(each)

    def _comment(self, documented: Json) -> Iterator[str]:
        yield from paragraphs(documented["comment"], self._links)

    def _types(self, types: Iterable[str]) -> Iterator[str]:
        """Links to what is named in them."""
        named = dict.fromkeys(re.findall(r"[A-Za-z_]+", " ".join(types)))
        if linked := [link for link in map(self._links.to, named) if not link.startswith("`")]:
            yield paragraph(f"Types: {', '.join(linked)}.")


def _named_methods(declared: Json) -> Iterator[Json]:
    return (each for each in declared["members"] if each["kind"] == "method")


def _marked(named: Json) -> str:
    return f"{named['name']}?" if named["optional"] else str(named["name"])


def _choice(alias: Json) -> str:
    return f"one of {', '.join(f'`{value}`' for value in alias['values'])}"


def _signature(name: str, called: Json) -> str:
    """How a function is called and what it returns, on one line or with a line for each parameter."""
    parameters = [f"{_marked(each)}: {each['type']}" for each in called["parameters"]]
    returned = f": {called['returns']}" if called["returns"] else ""
    line = f"{name}({', '.join(parameters)}){returned}"
    if len(line) > _LONG:
        line = "\n".join([f"{name}(", *(f"  {each}," for each in parameters), f"){returned}"])
    return f"```ts\n{line}\n```\n"


def _contents(sections: Sequence[str]) -> Iterator[str]:
    """Links to all headings, those of a section in one item."""
    yield "Contents:\n"
    section, parts = "", list[str]()
    for title in [*re.findall(r"^(##.*)$", "\n".join(sections), re.MULTILINE), "## "]:
        hashes, _, name = title.partition(" ")
        if hashes == "###":
            parts.append(f"[{name.removeprefix(f'{section}.')}](#{anchor(name)})")
            continue
        if section:
            told = f": {', '.join(parts)}" if parts else ""
            yield item(f"[{section}](#{anchor(section)}){told}")
        section, parts = name, []
    yield ""
