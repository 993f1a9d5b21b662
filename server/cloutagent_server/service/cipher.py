"""Sealing of values with AES-256-GCM in the contract's format."""

from __future__ import annotations

import json
import os
import re
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cloutagent_server.domain.secret import SealedSecret

IV_BYTES: Final = 16
TAG_BYTES: Final = 16
_HEX: Final = re.compile(r"(?:[0-9a-fA-F]{2})*")


class CannotOpen(Exception):
    """A sealed value cannot be opened: it was altered, or sealed with another key or for another context."""


class Cipher:
    """Seals and opens text with one key.

    The format is what Node's `crypto` makes with `aes-256-gcm`, a 16-byte IV and a 16-byte tag; with the empty context
    (no additional authenticated data) either side opens what the other sealed.
    """

    def __init__(self, key_hex: str) -> None:
        """`key_hex` is 64 hex digits.

        Raises:
            ValueError: It is not.
        """
        if len(key_hex) != 64 or _HEX.fullmatch(key_hex) is None:
            raise ValueError("the encryption key must be 64 hex digits")
        self._aead = AESGCM(bytes.fromhex(key_hex))

    def seal(self, plaintext: str, context: bytes = b"") -> SealedSecret:
        """Seal `plaintext` under a fresh random IV. `context` is authenticated and must be given again to open."""
        iv = os.urandom(IV_BYTES)
        sealed = self._aead.encrypt(iv, plaintext.encode(), context or None)
        return SealedSecret(iv.hex(), sealed[-TAG_BYTES:].hex(), sealed[:-TAG_BYTES].hex())

    def open(self, sealed: SealedSecret, context: bytes = b"") -> str:
        """The text that was sealed.

        Raises:
            CannotOpen: The parts are malformed or do not belong together, or the key or the context is another.
        """
        try:
            iv, tag, body = (_from_hex(part) for part in (sealed.iv, sealed.auth_tag, sealed.encrypted))
            if len(iv) != IV_BYTES or len(tag) != TAG_BYTES:
                raise CannotOpen("the IV or the authentication tag has the wrong length")
            return self._aead.decrypt(iv, body + tag, context or None).decode()
        except InvalidTag:
            raise CannotOpen("it was altered, or sealed with another key or for another project") from None
        except UnicodeDecodeError:
            raise CannotOpen("it does not hold text") from None


def to_json(sealed: SealedSecret) -> str:
    """The contract's text form: `{"iv","authTag","encrypted"}` in hex."""
    return json.dumps({"iv": sealed.iv, "authTag": sealed.auth_tag, "encrypted": sealed.encrypted})


def from_json(text: str) -> SealedSecret:
    """Read the contract's text form.

    Raises:
        CannotOpen: It is not of this form.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise CannotOpen("it is not JSON") from None
    match document:
        case {"iv": str(iv), "authTag": str(auth_tag), "encrypted": str(encrypted)}:
            return SealedSecret(iv, auth_tag, encrypted)
        case _:
            raise CannotOpen("it must be a JSON object with iv, authTag and encrypted in hex")


def _from_hex(text: str) -> bytes:
    if _HEX.fullmatch(text) is None:
        raise CannotOpen("iv, authTag and encrypted must be hex")
    return bytes.fromhex(text)
