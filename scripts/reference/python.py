"""The page of the Python client, from its signatures and docstrings."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import cloutagent
from cloutagent import errors, types
from cloutagent._sync.watch import EventWatch, Watch
from cloutagent.types import StartOptions
from scripts.reference.markdown import GENERATED, Links, item, paragraph, paragraphs

PAGE: Final = "python.md"
NOWHERE: Final = "http://127.0.0.1:1"

_SECTIONS: Final = re.compile(r"^(Args|Attributes|Raises):\n", re.MULTILINE)
_TITLES: Final = {"Args": "Arguments", "Attributes": "Attributes", "Raises": "Raises"}
_LONG: Final = 88

# What is no call and no message of the API, in the order of the page.
_OTHERS: Final = (cloutagent.RetryPolicy, StartOptions, types.NewProject, types.NewApiKey, Watch, EventWatch)


def resources() -> Mapping[str, type]:
    """The classes whose methods are the calls of a client, by the client's attributes."""
    with cloutagent.Client(address=NOWHERE) as client:
        return {name: type(value) for name, value in vars(client).items() if not name.startswith("_")}


def exceptions() -> list[type[Exception]]:
    """The classes of errors, each behind those that it is one of."""
    return [
        each for each in vars(errors).values() if inspect.isclass(each) and issubclass(each, errors.CloutAgentError)
    ]


def homes() -> Mapping[str, str]:
    """The page of every name that is explained here."""
    classes = [cloutagent.Client, cloutagent.AsyncClient, *_OTHERS, *exceptions(), errors.Violation]
    return dict.fromkeys((each.__name__ for each in classes), PAGE)


def page(links: Links) -> str:
    """The page."""
    lines = [
        "# The Python client\n",
        f"{GENERATED}\n",
        *paragraphs(inspect.getdoc(cloutagent) or "", links),
        paragraph(
            "[python.md](../python.md) shows how it is used. What follows is `Client`; with `AsyncClient` calls are "
            "awaited, and iterators and watches are gone over with `async for`."
        ),
        "## Client\n",
        *_callable("Client", cloutagent.Client.__init__, links),
        *_documented(cloutagent.Client, links, with_arguments_of=cloutagent.Client.__init__),
        "### Client.close\n",
        *_callable("client.close", cloutagent.Client.close, links),
        "## AsyncClient\n",
        paragraph(f"The same as {links.to('Client')}, for asyncio."),
    ]
    for name, resource in resources().items():
        lines += [f"## client.{name}\n", *_documented(resource, links)]
        for method, function in _methods(resource):
            lines += [f"### client.{name}.{method}\n", *_callable(f"client.{name}.{method}", function, links)]
    lines += ["## Types\n", paragraph("What calls take and return beside the messages of the API.")]
    for each in _OTHERS:
        lines += _type(each, links)
    lines += ["## Errors\n", *paragraphs(inspect.getdoc(errors) or "", links)]
    for error in [*exceptions(), errors.Violation]:
        lines += _type(error, links)
    lines += ["## Messages\n", paragraph("`cloutagent.types` has these messages of the API:")]
    lines += [item(links.to(name)) for name in types.__all__ if not name.startswith("New") and name != "StartOptions"]
    return "\n".join(lines).rstrip("\n") + "\n"


def signature(name: str, function: Callable[..., Any]) -> str:
    """How a function is called and what it returns, on one line or with a line for each parameter."""
    parameters, starred = [], False
    for each in inspect.signature(function).parameters.values():
        if each.name == "self":
            continue
        if each.kind is each.KEYWORD_ONLY and not starred:
            parameters.append("*")
            starred = True
        prefix = "**" if each.kind is each.VAR_KEYWORD else ""
        default = "" if each.default is each.empty else f" = {each.default!r}"
        parameters.append(f"{prefix}{each.name}: {each.annotation}{default}")
    returned = inspect.signature(function).return_annotation
    answer = "" if returned in ("None", inspect.Signature.empty) else f" -> {returned}"
    line = f"{name}({', '.join(parameters)}){answer}"
    if len(line) <= _LONG:
        return line
    return "\n".join([f"{name}(", *(f"    {each}," for each in parameters), f"){answer}"])


def sections(docstring: str) -> Iterator[tuple[str, str]]:
    """The parts of a docstring, each with its title; the first has none."""
    first, *rest = _SECTIONS.split(docstring)
    yield "", first
    for title, body in zip(rest[::2], rest[1::2], strict=True):
        yield _TITLES[title], body


def _methods(kind: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    return ((name, each) for name, each in vars(kind).items() if inspect.isfunction(each) and not name.startswith("_"))


def _callable(name: str, function: Callable[..., Any], links: Links) -> Iterator[str]:
    """A signature with what it needs to be understood."""
    yield f"```python\n{signature(name, function)}\n```\n"
    if function.__name__ != "__init__":
        yield from _documented(function, links)
    named = re.findall(r"[A-Za-z_]+", " ".join(map(str, inspect.get_annotations(function).values())))
    if linked := [links.to(each) for each in dict.fromkeys(named) if not links.to(each).startswith("`")]:
        yield paragraph(f"Types: {', '.join(linked)}.")


def _documented(what: Any, links: Links, with_arguments_of: Callable[..., Any] | None = None) -> Iterator[str]:
    """What a docstring says."""
    yield from _parts(inspect.getdoc(what) or "", links)
    if with_arguments_of is not None:
        yield from _parts(inspect.getdoc(with_arguments_of) or "", links)


def _parts(docstring: str, links: Links) -> Iterator[str]:
    for title, body in sections(docstring):
        if not title:
            yield from paragraphs(body, links)
            continue
        yield f"{title}:\n"
        for each in re.split(r"\n(?! {5,})", inspect.cleandoc("\n" + body).replace("\n    ", "\n     ")):
            name, _, text = " ".join(each.split()).partition(": ")
            names = ", ".join(links.to(part) for part in name.split(", "))
            yield item(f"{names}: {links.within(text)}")
        yield ""


def _type(kind: type, links: Links) -> Iterator[str]:
    yield f"### {kind.__name__}\n"
    bases = [links.to(base.__name__) for base in kind.__bases__ if base.__name__ in homes()]
    if bases:
        yield paragraph(f"A kind of {' and of '.join(bases)}.")
    if dataclasses.is_dataclass(kind):
        fields = dataclasses.fields(kind)
        given = [(each.name, each.type, each.default) for each in fields]
        lines = [f"    {name}: {type_}{_default(default)}," for name, type_, default in given]
        yield "\n".join(["```python", f"{kind.__name__}(", *lines, ")", "```\n"])
    elif kind is StartOptions:
        lines = [f"    {name}: {type_}" for name, type_ in _declared(kind)]
        yield "\n".join(["```python", f"class {kind.__name__}(TypedDict, total=False):", *lines, "```\n"])
    yield from _documented(kind, links)
    if properties := [name for name, each in vars(kind).items() if isinstance(each, property)]:
        yield "Properties:\n"
        yield from (item(f"`{name}`: {links.within(inspect.getdoc(getattr(kind, name)) or '')}") for name in properties)
        yield ""
    for name, function in _methods(kind):
        yield from _callable(f"{_variable(kind)}.{name}", function, links)


def _declared(kind: type) -> Iterator[tuple[str, str]]:
    for name, annotation in inspect.get_annotations(kind).items():
        yield name, annotation.__forward_arg__


def _default(default: object) -> str:
    return "" if default is dataclasses.MISSING else f" = {default!r}"


def _variable(kind: type) -> str:
    return "watch" if issubclass(kind, Watch) else re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()
