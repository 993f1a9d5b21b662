"""SecretService over gRPC."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from cloutagent.v1 import secret_pb2, secret_pb2_grpc
from cloutagent_server.domain.errors import SecretNotFound
from cloutagent_server.domain.secret import SecretMetadata
from cloutagent_server.service.secrets import SecretManager
from cloutagent_server.transport.context import Context, answer_with
from cloutagent_server.transport.project_codec import timestamp


class SecretServicer(secret_pb2_grpc.SecretServiceServicer):
    """Decodes, calls, encodes."""

    def __init__(self, secrets: SecretManager) -> None:
        self._secrets = secrets

    async def SetSecret(self, request: secret_pb2.SetSecretRequest, context: Context) -> secret_pb2.SetSecretResponse:
        """Store a secret."""
        expected = request.expected_version if request.HasField("expected_version") else None
        stored = await self._secrets.set_secret(request.project_id, request.name, request.value, expected)
        return secret_pb2.SetSecretResponse(**_fields(stored))

    async def GetSecret(self, request: secret_pb2.GetSecretRequest, context: Context) -> secret_pb2.GetSecretResponse:
        """Read a secret's value."""
        version = request.version if request.HasField("version") else None
        value = await self._secrets.get_secret(request.project_id, request.name, version)
        if value is None:
            raise SecretNotFound(request.name)
        return secret_pb2.GetSecretResponse(value=value)

    async def GetSecretMetadata(
        self, request: secret_pb2.GetSecretMetadataRequest, context: Context
    ) -> secret_pb2.GetSecretMetadataResponse:
        """Read what is known of a secret."""
        metadata = await self._secrets.get_metadata(request.project_id, request.name)
        if metadata is None:
            raise SecretNotFound(request.name)
        return secret_pb2.GetSecretMetadataResponse(**_fields(metadata))

    async def ListSecretVersions(
        self, request: secret_pb2.ListSecretVersionsRequest, context: Context
    ) -> secret_pb2.ListSecretVersionsResponse:
        """List the versions of a secret."""
        versions = await self._secrets.list_versions(request.project_id, request.name)
        if versions is None:
            raise SecretNotFound(request.name)
        return secret_pb2.ListSecretVersionsResponse(
            versions=[
                secret_pb2.SecretVersion(version=kept.version, created_at=_stamp(kept.created_at)) for kept in versions
            ]
        )

    async def RestoreSecretVersion(
        self, request: secret_pb2.RestoreSecretVersionRequest, context: Context
    ) -> secret_pb2.RestoreSecretVersionResponse:
        """Make the value of a version the current one again."""
        restored = await self._secrets.restore_version(request.project_id, request.name, request.version)
        return secret_pb2.RestoreSecretVersionResponse(**_fields(restored))

    async def ListSecrets(
        self, request: secret_pb2.ListSecretsRequest, context: Context
    ) -> secret_pb2.ListSecretsResponse:
        """List the names of secrets."""
        return secret_pb2.ListSecretsResponse(names=await self._secrets.list_secrets(request.project_id))

    async def DeleteSecret(
        self, request: secret_pb2.DeleteSecretRequest, context: Context
    ) -> secret_pb2.DeleteSecretResponse:
        """Delete a secret; a REST caller gets 204."""
        if not await self._secrets.delete_secret(request.project_id, request.name):
            raise SecretNotFound(request.name)
        await answer_with(context, 204)
        return secret_pb2.DeleteSecretResponse()

    async def Encrypt(self, request: secret_pb2.EncryptRequest, context: Context) -> secret_pb2.EncryptResponse:
        """Seal a value for the project."""
        sealed = await self._secrets.encrypt(request.plaintext, _bound_to(request.project_id))
        return secret_pb2.EncryptResponse(ciphertext=sealed)

    async def Decrypt(self, request: secret_pb2.DecryptRequest, context: Context) -> secret_pb2.DecryptResponse:
        """Open a value that was sealed for the project."""
        opened = await self._secrets.decrypt(request.ciphertext, _bound_to(request.project_id))
        return secret_pb2.DecryptResponse(plaintext=opened)


def _bound_to(project_id: str) -> bytes:
    return f"project:{project_id}".encode()


def _fields(metadata: SecretMetadata) -> dict[str, Any]:
    return {
        "name": metadata.name,
        "version": metadata.version,
        "created_at": _stamp(metadata.created_at),
        "updated_at": _stamp(metadata.updated_at),
    }


def _stamp(time: datetime | None) -> Timestamp | None:
    return None if time is None else timestamp(time)
