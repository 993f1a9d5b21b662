"""The keys of the stored secrets: the one that seals, and retired ones that still open."""

from __future__ import annotations

from collections.abc import Iterable

from cloutagent_server.domain.secret import SealedSecret
from cloutagent_server.service.cipher import CannotOpen, Cipher, Malformed


class Keyring:
    """One key that seals, and keys that only open what they sealed before.

    Attributes:
        current: Seals.
    """

    def __init__(self, key_hex: str, retired_hex: Iterable[str] = ()) -> None:
        """Each key is 64 hex digits.

        Raises:
            ValueError: One is not.
        """
        self.current = Cipher(key_hex)
        # The current key comes first, and is tried first.
        self._by_id = {cipher.key_id: cipher for cipher in (self.current, *map(Cipher, retired_hex))}

    def find(self, key_id: str) -> Cipher | None:
        """The key of this id; None if it is not one of these."""
        return self._by_id.get(key_id)

    def open(self, sealed: SealedSecret, context: bytes = b"") -> str:
        """The text that one of the keys sealed.

        Raises:
            CannotOpen: None of them opens it.
        """
        return self._opened(sealed, context)[1]

    def key_id_of(self, sealed: SealedSecret) -> str:
        """Id of the key that sealed a value of the contract's format.

        Raises:
            CannotOpen: None of them did, or it was altered.
        """
        return self._opened(sealed, b"")[0]

    def _opened(self, sealed: SealedSecret, context: bytes) -> tuple[str, str]:
        fault = CannotOpen("no key opens it")
        for key_id, cipher in self._by_id.items():
            try:
                return key_id, cipher.open(sealed, context)
            except Malformed:
                raise
            except CannotOpen as refused:
                fault = refused
        raise fault
