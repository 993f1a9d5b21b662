"""Sealing of values with AES-256-GCM in the contract's format, and what else is derived from the key."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cloutagent_server.domain.secret import SealedSecret, sealed_to_json

IV_BYTES: Final = 16
TAG_BYTES: Final = 16
_HEX: Final = re.compile(r"(?:[0-9a-fA-F]{2})*")
_KEY_ID_INFO: Final = b"cloutagent key id"
_MANIFEST_INFO: Final = b"cloutagent manifest v1"


class CannotOpen(Exception):
    """A sealed value cannot be opened: it was altered, or sealed with another key or for another context."""


class Malformed(CannotOpen):
    """What is given is not the form of a sealed value: cut off, or never one."""


class Cipher:
    """Seals, opens and authenticates with one key.

    Attributes:
        key_id: Tells which key this is without telling the key: 16 hex digits.

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
        key = bytes.fromhex(key_hex)
        self._aead = AESGCM(key)
        self._manifest_key = _derived(key, _MANIFEST_INFO)
        self.key_id: Final = hashlib.sha256(_derived(key, _KEY_ID_INFO)).hexdigest()[:16]

    def mac(self, content: bytes) -> str:
        """HMAC-SHA-256 of a manifest's content, in hex, with a key derived for nothing else."""
        return hmac.new(self._manifest_key, content, hashlib.sha256).hexdigest()

    def seal(self, plaintext: str, context: bytes = b"") -> SealedSecret:
        """Seal `plaintext` under a fresh random IV. `context` is authenticated and must be given again to open."""
        iv = os.urandom(IV_BYTES)
        sealed = self._aead.encrypt(iv, plaintext.encode(), context or None)
        return SealedSecret(iv.hex(), sealed[-TAG_BYTES:].hex(), sealed[:-TAG_BYTES].hex())

    def open(self, sealed: SealedSecret, context: bytes = b"") -> str:
        """The text that was sealed.

        Raises:
            Malformed: A part is not hex, or was cut off.
            CannotOpen: The parts do not belong together, or the key or the context is another.
        """
        try:
            iv, tag, body = (_from_hex(part) for part in (sealed.iv, sealed.auth_tag, sealed.encrypted))
            if len(iv) != IV_BYTES or len(tag) != TAG_BYTES:
                raise Malformed("it is cut off: the IV or the authentication tag has the wrong length")
            return self._aead.decrypt(iv, body + tag, context or None).decode()
        except InvalidTag:
            raise CannotOpen("it was altered, or sealed with another key or for another project") from None
        except UnicodeDecodeError:
            raise CannotOpen("it does not hold text") from None


def to_json(sealed: SealedSecret) -> str:
    """The contract's text form: `{"iv","authTag","encrypted"}` in hex."""
    return json.dumps(sealed_to_json(sealed))


def from_json(text: str) -> SealedSecret:
    """Read the contract's text form.

    Raises:
        Malformed: It is not of this form.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise Malformed("it is not JSON") from None
    match document:
        case {"iv": str(iv), "authTag": str(auth_tag), "encrypted": str(encrypted)}:
            return SealedSecret(iv, auth_tag, encrypted)
        case _:
            raise Malformed("it must be a JSON object with iv, authTag and encrypted in hex")


def _from_hex(text: str) -> bytes:
    if _HEX.fullmatch(text) is None:
        raise Malformed("iv, authTag and encrypted must be hex")
    return bytes.fromhex(text)


def _derived(key: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(key)
