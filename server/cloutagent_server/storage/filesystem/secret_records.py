"""The JSON form of sealed secrets, and of the value that tells which key sealed them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from cloutagent_server.domain.secret import NAME_PATTERN, SealedSecret, sealed_to_json
from cloutagent_server.storage.filesystem.schema import Fields, Schema, parse

KEY_CHECK: Final = Schema(1)


def secrets_to_json(secrets: Mapping[str, SealedSecret]) -> dict[str, str]:
    """The document that holds secrets: by name, each sealed value as a JSON text of its own."""
    return {name: json.dumps(sealed_to_json(sealed)) for name, sealed in secrets.items()}


def secrets_from_json(document: object) -> Mapping[str, SealedSecret]:
    """The secrets that a document holds. Raises ValueError."""
    if not isinstance(document, dict):
        raise ValueError("is not a JSON object")
    return {name: _sealed_text(name, value) for name, value in document.items()}


def key_check_to_json(sealed: SealedSecret) -> dict[str, Any]:
    """The document that holds what tells which key sealed the secrets."""
    return KEY_CHECK.stamp(sealed_to_json(sealed))


def key_check_from_json(document: object) -> SealedSecret:
    """The value that a document holds. Raises ValueError."""
    return sealed_from_fields(KEY_CHECK.open(document))


def sealed_from_fields(fields: Fields) -> SealedSecret:
    """The sealed value that a document holds. Raises ValueError."""
    sealed = SealedSecret(fields.hexadecimal("iv"), fields.hexadecimal("authTag"), fields.hexadecimal("encrypted"))
    fields.end()
    return sealed


def check_name(name: str) -> None:
    """Raise ValueError for what cannot be the name of a secret."""
    if NAME_PATTERN.fullmatch(name) is None:
        raise ValueError(f"{name!r} is not the name of a secret")


def _sealed_text(name: str, value: object) -> SealedSecret:
    check_name(name)
    if not isinstance(value, str):
        raise ValueError(f"{name} is not a text")
    document = parse(value.encode())
    if not isinstance(document, dict):
        raise ValueError(f"{name} does not hold an object")
    return sealed_from_fields(Fields(document, f"{name}."))
