"""ProjectService over gRPC."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from cloutagent.v1 import project_pb2, project_pb2_grpc
from cloutagent_server.service.keys import KeyService
from cloutagent_server.service.projects import ProjectService
from cloutagent_server.transport.context import Context, answer_with, caller, learn
from cloutagent_server.transport.key_codec import expiry_from_proto, key_to_proto
from cloutagent_server.transport.project_codec import changes_from_proto, draft_from_proto, to_proto, to_summary

DEFAULT_PAGE_SIZE: Final = 1000


class ProjectServicer(project_pb2_grpc.ProjectServiceServicer):
    """Decodes, calls, encodes."""

    def __init__(self, projects: ProjectService, keys: KeyService) -> None:
        self._projects = projects
        self._keys = keys

    async def CreateProject(
        self, request: project_pb2.CreateProjectRequest, context: Context
    ) -> project_pb2.CreateProjectResponse:
        """Create a project; a REST caller gets 201."""
        project, api_key = await self._projects.create(draft_from_proto(request))
        learn(project_id=project.id)
        await answer_with(context, 201)
        return project_pb2.CreateProjectResponse(project=to_proto(project), api_key=api_key)

    async def GetProject(
        self, request: project_pb2.GetProjectRequest, context: Context
    ) -> project_pb2.GetProjectResponse:
        """Read a project."""
        return project_pb2.GetProjectResponse(project=to_proto(await self._projects.get(request.project_id)))

    async def ListProjects(
        self, request: project_pb2.ListProjectsRequest, context: Context
    ) -> project_pb2.ListProjectsResponse:
        """List the projects that the caller may see."""
        page_size = request.page_size if request.HasField("page_size") else DEFAULT_PAGE_SIZE
        page = await self._projects.list(caller(), page_size, request.page_token or None)
        return project_pb2.ListProjectsResponse(
            projects=map(to_summary, page.items), next_page_token=page.next_page_token
        )

    async def UpdateProject(
        self, request: project_pb2.UpdateProjectRequest, context: Context
    ) -> project_pb2.UpdateProjectResponse:
        """Change a project."""
        project = await self._projects.update(request.project.id, lambda stored: changes_from_proto(request, stored))
        return project_pb2.UpdateProjectResponse(project=to_proto(project))

    async def DeleteProject(
        self, request: project_pb2.DeleteProjectRequest, context: Context
    ) -> project_pb2.DeleteProjectResponse:
        """Delete a project; a REST caller gets 204."""
        await self._projects.delete(request.project_id)
        await answer_with(context, 204)
        return project_pb2.DeleteProjectResponse()

    async def ProjectExists(
        self, request: project_pb2.ProjectExistsRequest, context: Context
    ) -> project_pb2.ProjectExistsResponse:
        """Tell whether a project exists."""
        return project_pb2.ProjectExistsResponse(exists=await self._projects.exists(request.project_id))

    async def CreateApiKey(
        self, request: project_pb2.CreateApiKeyRequest, context: Context
    ) -> project_pb2.CreateApiKeyResponse:
        """Create a further key; a REST caller gets 201."""
        key, api_key = await self._keys.create(request.project_id, request.name, expiry_from_proto(request), caller())
        learn(key_id=key.id)
        await answer_with(context, 201)
        return project_pb2.CreateApiKeyResponse(api_key=api_key, key=key_to_proto(key))

    async def ListApiKeys(
        self, request: project_pb2.ListApiKeysRequest, context: Context
    ) -> project_pb2.ListApiKeysResponse:
        """List the keys that work."""
        keys, uses = await self._keys.list(request.project_id)
        return project_pb2.ListApiKeysResponse(keys=(key_to_proto(key, uses.get(key.id)) for key in keys))

    async def RotateApiKey(
        self, request: project_pb2.RotateApiKeyRequest, context: Context
    ) -> project_pb2.RotateApiKeyResponse:
        """Replace a key."""
        key_id = request.key_id if request.HasField("key_id") else None
        grace = timedelta(milliseconds=request.grace_period)
        key, api_key = await self._keys.rotate(request.project_id, key_id, grace, caller())
        learn(key_id=key.id)
        return project_pb2.RotateApiKeyResponse(api_key=api_key, key=key_to_proto(key))

    async def RevokeApiKey(
        self, request: project_pb2.RevokeApiKeyRequest, context: Context
    ) -> project_pb2.RevokeApiKeyResponse:
        """Take a key away; a REST caller gets 204."""
        await self._keys.revoke(request.project_id, request.key_id, caller())
        await answer_with(context, 204)
        return project_pb2.RevokeApiKeyResponse()

    async def GetCurrentProject(
        self, request: project_pb2.GetCurrentProjectRequest, context: Context
    ) -> project_pb2.GetCurrentProjectResponse:
        """Tell whose key the caller used."""
        principal = caller()
        return project_pb2.GetCurrentProjectResponse(
            project=None if principal.project is None else to_proto(principal.project), admin=principal.admin
        )
