"""Generate from the settings class what tells about settings: `docs/configuration.md` and `.env.example`.

The same class gives the same text, so a test can prove that what is checked in is fresh.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from textwrap import wrap
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin

from pydantic import AliasChoices, ByteSize, SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from cloutagent_server.settings import Settings

REPOSITORY: Final = Path(__file__).parents[1]
REFERENCE: Final = REPOSITORY / "docs" / "configuration.md"
EXAMPLE: Final = REPOSITORY / ".env.example"
WIDTH: Final = 120

# The setting that each section begins with; those that follow it in the class belong to the section as well.
SECTIONS: Final = {
    "app_env": "Environment",
    "anthropic_base_url": "Model",
    "encryption_key": "Keys",
    "log_level": "Logs",
    "host": "Addresses",
    "storage": "Storage",
    "backup_enabled": "Backups",
    "max_concurrent_executions": "Executions",
    "mcp_private_addresses": "Agents",
}

_REFERENCE_HEAD: Final = """\
# Configuration

Generated from the settings class by `make generate`. Do not edit.

The server reads its settings from the environment and from `.env` in its working directory; the environment takes
precedence, and an empty variable is one that is not set. [.env.example](../.env.example) has them all with their
defaults. `make validate-env` (or `cloutagent-server validate-env`) checks them and prints every fault with its remedy.
"""
_EXAMPLE_HEAD: Final = """\
# Settings of cloutagent-server. Copy to .env and change what you need; variables of the environment take precedence.
# `make validate-env` checks them. Generated from the settings class by `make generate`: change the texts there.
"""
_UNITS: Final = ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB"))


@dataclass(frozen=True, slots=True)
class Variable:
    """A setting as its user sees it.

    Attributes:
        field: Its name in the settings class.
        name: The environment variable.
        other_names: More variables that it is read from, if the first is not set.
        meaning: One or more sentences.
        values: What may be set, in words.
        default: As it would be written in `.env`; empty for none.
    """

    field: str
    name: str
    other_names: tuple[str, ...]
    meaning: str
    values: str
    default: str


def variables(settings: type[BaseSettings]) -> list[Variable]:
    """All settings of a class, in its order."""
    return [_variable(name, field) for name, field in settings.model_fields.items()]


def reference(settings: type[BaseSettings]) -> str:
    """The reference as a Markdown text."""
    lines = [_REFERENCE_HEAD.rstrip()]
    for each in variables(settings):
        if each.field in SECTIONS:
            lines += [f"\n## {SECTIONS[each.field]}\n"]
        default = f"default `{each.default}`" if each.default else "no default"
        others = "".join(f"; `{other}` is read too" for other in each.other_names)
        text = f"**`{each.name}`** ({each.values}; {default}{others}): {each.meaning}"
        lines += _wrapped(text, "- ", "  ")
    return "\n".join(lines) + "\n"


def example(settings: type[BaseSettings]) -> str:
    """A text for `.env` in which every setting has its default."""
    lines = [_EXAMPLE_HEAD.rstrip()]
    for each in variables(settings):
        if each.field in SECTIONS:
            lines += [f"\n# --- {SECTIONS[each.field]}\n"]
        values = "" if each.values == "text" else f" ({each.values})"
        lines += _wrapped(each.meaning + values, "# ", "# ")
        lines += [f"{each.name}={each.default}"]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write both files; returns the exit status."""
    REFERENCE.write_text(reference(Settings), encoding="utf-8")
    EXAMPLE.write_text(example(Settings), encoding="utf-8")
    return 0


def _wrapped(text: str, first: str, others: str) -> list[str]:
    return wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=others, break_long_words=False, break_on_hyphens=False
    )


def _variable(name: str, field: FieldInfo) -> Variable:
    alias = field.validation_alias
    names = [str(choice) for choice in alias.choices] if isinstance(alias, AliasChoices) else [name.upper()]
    default = _written(field.get_default(call_default_factory=True, validated_data={}))
    return Variable(name, names[0], tuple(names[1:]), field.description or "", _values(field), default)


def _written(default: object) -> str:
    match default:
        case bool():
            return str(default).lower()
        case Enum():
            return str(default.value)
        case ByteSize():
            return next((f"{default // size}{unit}" for size, unit in _UNITS if default % size == 0), str(int(default)))
        case float():
            return f"{default:g}"
        case list() | tuple():
            return ",".join(map(str, default))
        case int() | str() | Path():
            return str(default)
        case _:
            return ""


def _values(field: FieldInfo) -> str:
    kind: Any = field.annotation
    if get_origin(kind) in (Union, UnionType):
        (kind, *_) = [each for each in get_args(kind) if each is not type(None)]
    if not isinstance(kind, type):
        return "list, separated by commas" if get_origin(kind) in (list, tuple) else "text"
    if issubclass(kind, Enum):
        *first, last = (str(each.value) for each in kind)
        return " or ".join(filter(None, [", ".join(first), last]))
    words = {
        bool: "true or false",
        ByteSize: "size",
        int: "whole number",
        float: "number",
        SecretStr: "text, secret",
        Path: "path",
    }
    return " ".join([words.get(kind, "text"), *_bounds(field, kind)])


def _bounds(field: FieldInfo, kind: type) -> Iterator[str]:
    bounds = {name: getattr(rule, name) for rule in field.metadata for name in ("ge", "le") if hasattr(rule, name)}
    told = {name: _written(ByteSize(value)) if kind is ByteSize else str(value) for name, value in bounds.items()}
    if told.keys() == {"ge", "le"}:
        yield f"from {told['ge']} to {told['le']}"
    elif "ge" in told:
        yield f"from {told['ge']} on"
    elif "le" in told:
        yield f"up to {told['le']}"


if __name__ == "__main__":
    sys.exit(main())
