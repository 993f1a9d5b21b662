"""Takes the vendor's key out of what the vendor answers, should it ever say it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_REDACTED: Final = "[redacted]"
# Less is no key, and would be found in any text.
_LEAST: Final = 8


class Redactor:
    """Redacts `secret` in texts, headers and documents."""

    def __init__(self, secret: str | None) -> None:
        self._secret = secret if secret is not None and len(secret) >= _LEAST else ""
        self.secret = self._secret.encode()

    def text(self, text: str) -> str:
        """The text without the secret."""
        return text.replace(self._secret, _REDACTED) if self._secret else text

    def headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """The headers, with no value that holds the secret."""
        return {name: self.text(value) for name, value in headers.items()}

    def data(self, data: bytes) -> bytes:
        """The bytes without the secret."""
        return data.replace(self.secret, _REDACTED.encode()) if self.secret else data


class StreamRedactor:
    """Redacts in a stream, holding back nothing but what may be the beginning of the secret."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """What can go on when this has come."""
        data = self._redactor.data(self._held + chunk)
        held = self._begun(data)
        self._held = data[len(data) - held :]
        return data[: len(data) - held]

    def end(self) -> bytes:
        """What is left in the end."""
        held, self._held = self._held, b""
        return held

    def _begun(self, data: bytes) -> int:
        """How many bytes at the end of `data` may be the beginning of the secret."""
        secret = self._redactor.secret
        start = max(0, len(data) - len(secret) + 1)
        while secret and (start := data.find(secret[:1], start)) >= 0:
            if secret.startswith(data[start:]):
                return len(data) - start
            start += 1
        return 0
