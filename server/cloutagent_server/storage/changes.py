"""What changes make of projects, executions and secrets: the same on every backend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from cloutagent_server.domain import event_json
from cloutagent_server.domain.api_key import DEFAULT_KEY_NAME, ApiKey
from cloutagent_server.domain.errors import RevisionConflict
from cloutagent_server.domain.events import AgentOutput, Event, StoredEvent
from cloutagent_server.domain.execution import Execution
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.project import KeyCredential, Project, ProjectChanges, ProjectDraft, Unset
from cloutagent_server.domain.secret import SecretRecord


def created(draft: ProjectDraft, project_id: str, now: datetime) -> Project:
    """The project that a draft becomes."""
    return Project(
        project_id,
        draft.name,
        draft.description,
        draft.agent,
        draft.limits,
        created_at=now,
        updated_at=now,
        budget=draft.budget,
    )


def first_key(project: Project, credential: KeyCredential) -> ApiKey:
    """The key that a project is created with."""
    return ApiKey(new_id(), DEFAULT_KEY_NAME, credential, created_at=project.created_at)


def used(noted: Mapping[str, datetime], uses: Mapping[str, datetime], keys: Iterable[ApiKey]) -> Mapping[str, datetime]:
    """When each of the keys was last used, by what was noted before and the `uses` since."""
    known = {key.id: [times[key.id] for times in (noted, uses) if key.id in times] for key in keys}
    return {key_id: max(times) for key_id, times in known.items() if times}


def changed(project: Project, changes: ProjectChanges, now: datetime) -> Project:
    """The project with the fields of `changes` set, its next revision."""
    return replace(
        project,
        name=project.name if isinstance(changes.name, Unset) else changes.name,
        description=project.description if isinstance(changes.description, Unset) else changes.description,
        agent=project.agent if isinstance(changes.agent, Unset) else changes.agent,
        limits=project.limits if isinstance(changes.limits, Unset) else changes.limits,
        budget=project.budget if isinstance(changes.budget, Unset) else changes.budget,
        updated_at=max(now, project.updated_at),
        revision=project.revision + 1,
    )


def appended(execution: Execution, events: Sequence[Event]) -> tuple[Execution, tuple[StoredEvent, ...]]:
    """The execution after `events`, and these as they are to be stored.

    The state is folded from the stored form, so that it is the same now and when the log is read again.

    Raises:
        RevisionConflict: The first event is not the next in sequence.
        ValueError: An event cannot follow the state it meets.
    """
    if events[0].sequence != execution.last_sequence + 1:
        raise RevisionConflict("another writer appended to the execution first")
    lines = tuple(event_json.encode(event) for event in events)
    stored = (
        event if isinstance(event.payload, AgentOutput) else event_json.decode(line.data)
        for event, line in zip(events, lines, strict=True)
    )
    return folded(execution, stored), lines


def folded(execution: Execution, events: Iterable[Event]) -> Execution:
    """The execution with all events applied; no execution is built for an event that only counts.

    Raises:
        ValueError: An event cannot follow the state it meets.
    """
    last = execution.last_sequence
    ended = execution.status.terminal
    for event in events:
        follows = not ended and event.sequence == last + 1 and event.execution_id == execution.id
        if not (follows and isinstance(event.payload, AgentOutput)):
            execution = replace(execution, last_sequence=last).after(event)
            ended = execution.status.terminal
        last = event.sequence
    return replace(execution, last_sequence=last)


def check_revision(old: SecretRecord, new: SecretRecord) -> None:
    """Make sure that `new` has a manifest, whose revision follows that of `old`.

    Raises:
        RevisionConflict: It has not.
    """
    if new.manifest is None or new.revision != old.revision + 1:
        raise RevisionConflict("the secrets changed since they were read")
