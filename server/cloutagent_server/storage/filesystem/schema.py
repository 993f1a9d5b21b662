"""Strict reading of stored JSON: what is not exactly as expected is damaged, and nothing is guessed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NoReturn, TypeVar

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.identifiers import is_id

T = TypeVar("T")
Upgrade = Callable[[dict[str, Any]], dict[str, Any]]

DIGEST: Final = re.compile(r"[0-9a-f]{64}")
"""A SHA-256 in hex."""

_VERSION: Final = "schemaVersion"
_MOST_WHOLE: Final = 2**63 - 1
_HEX: Final = re.compile(r"([0-9A-Fa-f]{2})*")


def parse(content: bytes) -> Any:
    """The value of a JSON text. Raises ValueError if it is none, NaN and infinities included."""
    try:
        return _JSON.decode(content.decode())
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_JSON: Final = json.JSONDecoder(parse_constant=_refuse_constant)


@dataclass(frozen=True, slots=True)
class Schema:
    """One kind of stored document.

    Attributes:
        version: The version that is written. A newer one is refused, an older one upgraded step by step.
        upgrades: For each older version, what makes a document of the next version of it.
    """

    version: int
    upgrades: Mapping[int, Upgrade] = field(default_factory=dict)

    def stamp(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """The document with its version."""
        return {_VERSION: self.version, **document}

    def open(self, document: object) -> Fields:
        """The document's fields, in this version. Raises ValueError if it is not such a document or is newer."""
        if not isinstance(document, dict):
            raise ValueError("is not a JSON object")
        fields = dict(document)
        version = fields.pop(_VERSION, None)
        if not isinstance(version, int) or isinstance(version, bool) or version < 0:
            raise ValueError(f"{_VERSION} is missing or not a version")
        if version > self.version:
            raise ValueError(f"{_VERSION} {version} is newer than {self.version}, the newest that this server reads")
        for older in range(version, self.version):
            if older not in self.upgrades:
                raise ValueError(f"{_VERSION} {older} is not a version of this record")
            fields = self.upgrades[older](fields)
        return Fields(fields)


class Fields:
    """A JSON object, read field by field. Every method raises ValueError, naming the field, for what does not fit.

    Call `end` last: a field that nobody asked for is a fault too, since the next write would lose it.
    """

    def __init__(self, document: Mapping[str, Any], path: str = "") -> None:
        self._rest = dict(document)
        self._path = path

    def text(self, name: str) -> str:
        """A text."""
        value = self._rest.get(name)
        if type(value) is str:
            del self._rest[name]
            return value
        return self._typed(name, str, "text")

    def whole(self, name: str, least: int = 0) -> int:
        """A whole number, at least `least`, that fits into 64 bits: a larger one was never written."""
        value = self._rest.get(name)
        if type(value) is int and least <= value <= _MOST_WHOLE:
            del self._rest[name]
            return value
        value = self._typed(name, int, "a whole number")
        if value < least:
            self._fail(name, f"is less than {least}")
        if value > _MOST_WHOLE:
            self._fail(name, f"is more than {_MOST_WHOLE}")
        return value

    def number(self, name: str) -> float:
        """A number."""
        value = self._take(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self._fail(name, "is not a number")
        return value

    def truth(self, name: str) -> bool:
        """A truth value."""
        value = self._take(name)
        if not isinstance(value, bool):
            self._fail(name, "is neither true nor false")
        return value

    def time(self, name: str) -> datetime:
        """A point in time."""
        try:
            return timestamps.from_text(self.text(name))
        except ValueError as fault:
            self._fail(name, f"is not a time: {fault}")

    def identifier(self, name: str) -> str:
        """An identifier."""
        value = self.text(name)
        if not is_id(value):
            self._fail(name, "is not an identifier")
        return value

    def hexadecimal(self, name: str) -> str:
        """Bytes in hex."""
        value = self.text(name)
        if _HEX.fullmatch(value) is None:
            self._fail(name, "is not hexadecimal")
        return value

    def matching(self, name: str, pattern: re.Pattern[str]) -> str:
        """A text of which the whole matches a pattern."""
        value = self.text(name)
        if pattern.fullmatch(value) is None:
            self._fail(name, "is not of the right form")
        return value

    def texts(self, name: str) -> Sequence[str]:
        """A list of texts."""
        values = self._typed(name, list, "a list")
        if not all(isinstance(value, str) for value in values):
            self._fail(name, "holds something that is not text")
        return values

    def text_map(self, name: str) -> Mapping[str, str]:
        """An object whose values are texts."""
        values = self._typed(name, dict, "an object")
        if not all(isinstance(value, str) for value in values.values()):
            self._fail(name, "holds something that is not text")
        return values

    def fields(self, name: str) -> Fields:
        """An object with fields of its own."""
        return Fields(self._typed(name, dict, "an object"), f"{self._path}{name}.")

    def items(self, name: str) -> Sequence[Fields]:
        """A list of objects with fields of their own."""
        values = self._typed(name, list, "a list")
        if not all(isinstance(value, dict) for value in values):
            self._fail(name, "holds something that is not an object")
        return [Fields(value, f"{self._path}{name}[{number}].") for number, value in enumerate(values)]

    def names(self) -> Sequence[str]:
        """The names of the fields that were not read yet."""
        return list(self._rest)

    def has(self, name: str) -> bool:
        """Whether there is such a field, not read yet."""
        return name in self._rest

    def nullable(self, read: Callable[[str], T], name: str) -> T | None:
        """What `read` makes of the field; None if it is null."""
        if name in self._rest and self._rest[name] is None:
            del self._rest[name]
            return None
        return read(name)

    def optional(self, read: Callable[[str], T], name: str) -> T | None:
        """What `read` makes of the field; None if it is absent."""
        return read(name) if name in self._rest else None

    def end(self) -> None:
        """Refuse fields that were not read."""
        for name in self._rest:
            self._fail(name, "is not a field of this record")

    def _typed(self, name: str, wanted: type[T], description: str) -> T:
        value = self._take(name)
        if not isinstance(value, wanted) or isinstance(value, bool):
            self._fail(name, f"is not {description}")
        return value

    def _take(self, name: str) -> object:
        if name not in self._rest:
            self._fail(name, "is missing")
        return self._rest.pop(name)

    def _fail(self, name: str, fault: str) -> NoReturn:
        raise ValueError(f"{self._path}{name} {fault}")
