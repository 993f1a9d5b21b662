"""Secrets of a project."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cloutagent._requests import message
from cloutagent.types import (
    GetSecretMetadataResponse,
    RestoreSecretVersionResponse,
    SecretVersion,
    SetSecretResponse,
)
from cloutagent.v1 import secret_pb2

if TYPE_CHECKING:
    from cloutagent._async.transport import AsyncTransport


class AsyncSecrets:
    """Secrets of a project, filled into prompts as `{{secret:NAME}}`.

    `project_id` may be left out; see `Client`. `timeout` is in seconds.
    """

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def set(
        self,
        name: str,
        value: str,
        *,
        expected_version: int | None = None,
        project_id: str | None = None,
        timeout: float | None = None,
    ) -> SetSecretResponse:
        """Store a secret as its next version. `expected_version` is what it must be at now; 0: it must not exist."""
        self._transport.configuration.require_confidential("a secret")
        request = message(
            secret_pb2.SetSecretRequest,
            project_id=await self._transport.project(project_id, timeout),
            name=name,
            value=value,
            expected_version=expected_version,
        )
        return await self._transport.call(self._transport.connection.secrets.SetSecret, request, timeout)

    async def get(
        self, name: str, *, version: int | None = None, project_id: str | None = None, timeout: float | None = None
    ) -> str:
        """The plain value, of the current version or of an earlier one."""
        self._transport.configuration.require_confidential("a secret")
        request = secret_pb2.GetSecretRequest(
            project_id=await self._transport.project(project_id, timeout), name=name, version=version
        )
        method = self._transport.connection.secrets.GetSecret
        return (await self._transport.call(method, request, timeout, repeatable=True)).value

    async def list(self, *, project_id: str | None = None, timeout: float | None = None) -> Sequence[str]:
        """The names in alphabetical order."""
        request = secret_pb2.ListSecretsRequest(project_id=await self._transport.project(project_id, timeout))
        method = self._transport.connection.secrets.ListSecrets
        return tuple((await self._transport.call(method, request, timeout, repeatable=True)).names)

    async def metadata(
        self, name: str, *, project_id: str | None = None, timeout: float | None = None
    ) -> GetSecretMetadataResponse:
        """What is known of a secret, never its value."""
        request = secret_pb2.GetSecretMetadataRequest(
            project_id=await self._transport.project(project_id, timeout), name=name
        )
        method = self._transport.connection.secrets.GetSecretMetadata
        return await self._transport.call(method, request, timeout, repeatable=True)

    async def versions(
        self, name: str, *, project_id: str | None = None, timeout: float | None = None
    ) -> Sequence[SecretVersion]:
        """The versions that are kept, newest first, never their values."""
        request = secret_pb2.ListSecretVersionsRequest(
            project_id=await self._transport.project(project_id, timeout), name=name
        )
        method = self._transport.connection.secrets.ListSecretVersions
        return tuple((await self._transport.call(method, request, timeout, repeatable=True)).versions)

    async def restore(
        self, name: str, version: int, *, project_id: str | None = None, timeout: float | None = None
    ) -> RestoreSecretVersionResponse:
        """Make the value of a version the current one again, as a new version."""
        request = secret_pb2.RestoreSecretVersionRequest(
            project_id=await self._transport.project(project_id, timeout), name=name, version=version
        )
        return await self._transport.call(self._transport.connection.secrets.RestoreSecretVersion, request, timeout)

    async def delete(self, name: str, *, project_id: str | None = None, timeout: float | None = None) -> None:
        """Delete a secret with all its versions."""
        request = secret_pb2.DeleteSecretRequest(
            project_id=await self._transport.project(project_id, timeout), name=name
        )
        await self._transport.call(self._transport.connection.secrets.DeleteSecret, request, timeout)

    async def encrypt(self, plaintext: str, *, project_id: str | None = None, timeout: float | None = None) -> str:
        """Seal a value for the project without storing it."""
        self._transport.configuration.require_confidential("a secret")
        request = secret_pb2.EncryptRequest(
            project_id=await self._transport.project(project_id, timeout), plaintext=plaintext
        )
        method = self._transport.connection.secrets.Encrypt
        return (await self._transport.call(method, request, timeout, repeatable=True)).ciphertext

    async def decrypt(self, ciphertext: str, *, project_id: str | None = None, timeout: float | None = None) -> str:
        """Open what `encrypt` sealed for the same project."""
        self._transport.configuration.require_confidential("a secret")
        request = secret_pb2.DecryptRequest(
            project_id=await self._transport.project(project_id, timeout), ciphertext=ciphertext
        )
        method = self._transport.connection.secrets.Decrypt
        return (await self._transport.call(method, request, timeout, repeatable=True)).plaintext
