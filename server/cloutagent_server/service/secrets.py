"""Secrets of projects: sealed before they are stored, opened only when asked for."""

from __future__ import annotations

from typing import Final

from cloutagent_server.domain.errors import FieldViolation, InvalidRequest, StoredDataDamaged
from cloutagent_server.domain.secret import MAX_VALUE_BYTES, NAME_PATTERN
from cloutagent_server.service.cipher import CannotOpen, Cipher, from_json, to_json
from cloutagent_server.storage.base import SecretStorage

_KEY_CHECK_TEXT: Final = "cloutagent key check"


class WrongEncryptionKey(Exception):
    """ENCRYPTION_KEY does not open the secrets that are stored. The server must not start."""

    def __init__(self) -> None:
        super().__init__("ENCRYPTION_KEY does not open the stored secrets: it is not the key that sealed them")


class SecretManager:
    """Keeps the secrets of projects. Values are sealed with the server's key in the contract's format."""

    def __init__(self, storage: SecretStorage, cipher: Cipher) -> None:
        self._storage = storage
        self._cipher = cipher

    async def check_key(self) -> None:
        """Make sure that the key opens what is stored; on an empty storage, note which key it is.

        Raises:
            WrongEncryptionKey: The stored secrets were sealed with another key.
        """
        noted = await self._storage.read_key_check()
        if noted is None:
            await self._storage.put_key_check(self._cipher.seal(_KEY_CHECK_TEXT))
            noted = await self._storage.read_key_check()
        try:
            if noted is not None:
                self._cipher.open(noted)
        except CannotOpen:
            raise WrongEncryptionKey from None

    async def encrypt(self, plaintext: str, context: bytes = b"") -> str:
        """Seal a value: the JSON text `{"iv","authTag","encrypted"}` in hex, different each time.

        `context` binds the result: it opens only with the same context. The empty one is the contract's format.
        """
        return to_json(self._cipher.seal(plaintext, context))

    async def decrypt(self, ciphertext: str, context: bytes = b"") -> str:
        """Open what `encrypt` made.

        Raises:
            InvalidRequest: It is malformed or altered, or was sealed with another key or context.
        """
        try:
            return self._cipher.open(from_json(ciphertext), context)
        except CannotOpen as fault:
            raise InvalidRequest.of("ciphertext", f"cannot be opened: {fault}") from None

    async def set_secret(self, project_id: str, name: str, value: str) -> None:
        """Store a value under a name.

        Raises:
            InvalidRequest: The name or the size of the value is not allowed.
            ProjectNotFound: There is no such project.
        """
        faults = []
        if NAME_PATTERN.fullmatch(name) is None:
            faults.append(FieldViolation("name", "must be a letter or _, then up to 127 letters, digits or _"))
        if len(value.encode()) > MAX_VALUE_BYTES:
            faults.append(FieldViolation("value", f"must be at most {MAX_VALUE_BYTES} bytes"))
        if faults:
            raise InvalidRequest(faults)
        await self._storage.put(project_id, name, self._cipher.seal(value))

    async def get_secret(self, project_id: str, name: str) -> str | None:
        """The plain value, or None if the project has no secret of this name.

        Raises:
            StoredDataDamaged: What is stored was altered, or sealed with another key.
        """
        sealed = (await self._storage.read(project_id)).get(name)
        if sealed is None:
            return None
        try:
            return self._cipher.open(sealed)
        except CannotOpen as fault:
            raise StoredDataDamaged(f"secret {name} of project {project_id}", str(fault)) from None

    async def list_secrets(self, project_id: str) -> list[str]:
        """The names of the project's secrets in alphabetical order."""
        return sorted(await self._storage.read(project_id))

    async def delete_secret(self, project_id: str, name: str) -> bool:
        """Remove a secret. False if there was none of this name."""
        return await self._storage.remove(project_id, name)
