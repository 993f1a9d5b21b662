"""The total budget of a project, and what stands against it after servers were killed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import grpc

from cloutagent.v1 import execution_pb2 as executions
from cloutagent.v1 import execution_pb2_grpc, project_pb2, project_pb2_grpc

# Less than the input of any call.
_LEFT_TOKENS: Final = 100


@dataclass(slots=True)
class TotalBudget:
    """A budget of so many tokens: at first more than a project meets by itself."""

    tokens: int = 50_000_000

    @property
    def message(self) -> project_pb2.Budget:
        """As the API takes it."""
        return project_pb2.Budget(total=project_pb2.BudgetLimit(max_tokens=self.tokens))

    async def tighten(self, channel: grpc.aio.Channel | None, project_id: str, api_key: str) -> list[str]:
        """Leave less than a call needs beside what all calls count for. Gives what is wrong with that."""
        metadata = (("x-api-key", api_key),)
        assert channel is not None
        stub: Any = execution_pb2_grpc.ExecutionServiceStub(channel)
        answer = await stub.GetUsage(executions.GetUsageRequest(project_id=project_id), metadata=metadata)
        (state,) = answer.report.budgets
        self.tokens = round(state.used) + _LEFT_TOKENS
        changed = project_pb2.Project(id=project_id, budget=self.message)
        stub = project_pb2_grpc.ProjectServiceStub(channel)
        await stub.UpdateProject(project_pb2.UpdateProjectRequest(project=changed), metadata=metadata)
        return [f"{state.reserved} tokens stay reserved although every run has ended"] if state.reserved else []

    def ended(self, event: bytes) -> bool:
        """Whether this last event of a run says that the budget ended it."""
        failed = executions.ExecutionEvent.FromString(event).failed
        return failed.failure.budget.limit == self.tokens
