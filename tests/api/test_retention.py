"""How long event logs are kept is what the settings say."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from tests.support.api.failure import ApiFailure
from tests.support.api.scenario import ProjectHandle, Projects
from tests.support.api.stage import IN_PROCESS, MEMORY, Stage

DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)


async def finished(project: ProjectHandle, size: int = 0) -> tuple[str, datetime]:
    """An execution that has ended, and when that was."""
    ended = await project.ended((await project.start("x" * size + "hello"))["id"])
    return ended["id"], datetime.fromisoformat(ended["finishedAt"])


async def is_trimmed(project: ProjectHandle, execution_id: str) -> bool:
    """Whether a watcher from the first event on is told that it is gone."""
    try:
        assert (await project.watch(execution_id))[0]["kind"] == "queued"
    except ApiFailure as failure:
        if failure.reason != "CURSOR_OUT_OF_RANGE":
            raise
        return True
    return False


@pytest.mark.depths(MEMORY, IN_PROCESS)
@pytest.mark.server(execution_retention_days=2)
async def test_events_are_kept_for_the_days_that_are_set(projects: Projects, stage: Stage) -> None:
    project = await projects()
    execution_id, end = await finished(project)
    assert await stage.app._retention.sweep(end + 2 * DAY - MINUTE) == 0
    assert not await is_trimmed(project, execution_id)
    assert await stage.app._retention.sweep(end + 2 * DAY + MINUTE) == 1
    assert await is_trimmed(project, execution_id)
    assert (await project.execution(execution_id))["status"] == "completed"


@pytest.mark.depths(MEMORY, IN_PROCESS)
@pytest.mark.server(execution_log_max_bytes=1024**2)
async def test_the_oldest_events_go_when_there_are_more_than_are_set(projects: Projects, stage: Stage) -> None:
    project = await projects()
    (old, _), (young, end) = await finished(project, 200_000), await finished(project, 200_000)
    sizes = [history.size for history in await stage.storage.executions.list_histories()]
    assert max(sizes) < 1024**2 < sum(sizes), "each fits, and both do not"
    assert await stage.app._retention.sweep(end) == 1
    assert await is_trimmed(project, old)
    assert not await is_trimmed(project, young)
