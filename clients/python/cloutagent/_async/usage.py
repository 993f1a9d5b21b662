"""What a project uses."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

from cloutagent._requests import day, message
from cloutagent.types import UsageReport
from cloutagent.v1 import execution_pb2

if TYPE_CHECKING:
    from cloutagent._async.transport import AsyncTransport
    from cloutagent._async.watch import AsyncWatch


class AsyncUsage:
    """What a project uses, and what it would cost.

    Days are those of UTC, both included, at most 366; by default the last 30. `project_id` may be left out; see
    `Client`. `timeout` is in seconds.
    """

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def get(
        self,
        *,
        from_day: date | str | None = None,
        to_day: date | str | None = None,
        project_id: str | None = None,
        timeout: float | None = None,
    ) -> UsageReport:
        """Usage by day and model, the sum, and how the budgets stand."""
        request = execution_pb2.GetUsageRequest(
            project_id=await self._transport.project(project_id, timeout), from_day=day(from_day), to_day=day(to_day)
        )
        method = self._transport.connection.executions.GetUsage
        return (await self._transport.call(method, request, timeout, repeatable=True)).report

    def watch(
        self,
        *,
        from_day: date | str | None = None,
        to_day: date | str | None = None,
        project_id: str | None = None,
        timeout: float | None = None,
    ) -> AsyncWatch[UsageReport]:
        """What `get` returns: at once, and again whenever it has changed.

        It has no end of its own: leave it, or have it raise DeadlineExceededError after `timeout`.
        """
        from cloutagent._async.watch import AsyncUsageWatch

        return AsyncUsageWatch(self._transport, project_id, day(from_day), day(to_day), timeout)

    async def estimate(
        self,
        *,
        prompt_tokens: int,
        completion_tokens: int = 0,
        project_id: str | None = None,
        timeout: float | None = None,
    ) -> float:
        """US dollars that so many tokens cost with the project's model at list price."""
        request = message(
            execution_pb2.EstimateCostRequest,
            project_id=await self._transport.project(project_id, timeout),
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
        )
        method = self._transport.connection.executions.EstimateCost
        return (await self._transport.call(method, request, timeout, repeatable=True)).estimated_cost
