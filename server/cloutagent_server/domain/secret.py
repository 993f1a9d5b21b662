"""Secrets as they are kept: sealed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

MAX_VALUE_BYTES: Final = 65_536
NAME_PATTERN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


@dataclass(frozen=True, slots=True)
class SealedSecret:
    """A value sealed with AES-256-GCM, each part in hex: 16-byte IV, 16-byte authentication tag, ciphertext."""

    iv: str
    auth_tag: str
    encrypted: str
