"""SecretService over gRPC."""

from __future__ import annotations

from cloutagent.v1 import secret_pb2, secret_pb2_grpc
from cloutagent_server.domain.errors import SecretNotFound
from cloutagent_server.service.secrets import SecretManager
from cloutagent_server.transport.context import Context, answer_with


class SecretServicer(secret_pb2_grpc.SecretServiceServicer):
    """Decodes, calls, encodes."""

    def __init__(self, secrets: SecretManager) -> None:
        self._secrets = secrets

    async def SetSecret(self, request: secret_pb2.SetSecretRequest, context: Context) -> secret_pb2.SetSecretResponse:
        """Store a secret."""
        await self._secrets.set_secret(request.project_id, request.name, request.value)
        return secret_pb2.SetSecretResponse()

    async def GetSecret(self, request: secret_pb2.GetSecretRequest, context: Context) -> secret_pb2.GetSecretResponse:
        """Read a secret's value."""
        value = await self._secrets.get_secret(request.project_id, request.name)
        if value is None:
            raise SecretNotFound(request.name)
        return secret_pb2.GetSecretResponse(value=value)

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
