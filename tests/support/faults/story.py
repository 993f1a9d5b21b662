"""A sequence of operations that uses every way to change a folder, and what a storage shows after each of them.

The same steps run on the memory backend, which is the model. Projects are named by a label, and found by the key that
belongs to it, since a backend chooses their identifiers itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final

from cloutagent_server.domain import api_key, audit, event_json
from cloutagent_server.domain.api_key import ApiKey, ApiKeys
from cloutagent_server.domain.audit import AuditEntry, Resource
from cloutagent_server.domain.cost import TokenUsage
from cloutagent_server.domain.errors import CursorOutOfRange
from cloutagent_server.domain.events import Event, Payload, StoredEvent
from cloutagent_server.domain.execution import Execution, Idempotency
from cloutagent_server.domain.ledger import LedgerCall, Reservation, Settlement
from cloutagent_server.domain.project import KeyCredential, Project, ProjectChanges, ProjectDraft
from cloutagent_server.domain.secret import SealedSecret
from cloutagent_server.storage.base import Storage
from cloutagent_server.storage.changes import folded
from cloutagent_server.storage.memory import MemoryStorage
from tests.support import builders
from tests.support.secret_changes import put_secret, remove_secret, reseal, restore_secret

Step = Callable[[Storage], Awaitable[object]]

LABELS: Final = ("first", "second", "third")
EXECUTIONS: Final = tuple(
    f"{number:08x}-0000-4000-8000-000000000000" for number in (0xAA000001, 0xAA000002, 0xBB000003)
)
_ONE, _TWO, _THREE = EXECUTIONS
_MODEL: Final = "claude-sonnet-4-5"
_MOST: Final = TokenUsage(90, 10, _MODEL)
# Keys beside those that projects are created with, by what `credential` takes: each project has names of its own.
MORE_KEYS: Final = tuple(f"{label} {name}" for label in LABELS for name in ("more", "rotated", "new default"))
_AGENT: Final = builders.agent_config(id="0a000000-0000-4000-8000-000000000000")


def credential(label: str) -> KeyCredential:
    """The key that the project with this label is created with, or another key of this name."""
    digest = hashlib.sha256(label.encode()).hexdigest()
    return builders.credential(digest=digest, hash="$2b$10$" + digest[:53])


def key_id(name: str) -> str:
    """The identifier of one of the `MORE_KEYS`."""
    text = hashlib.sha256(name.encode()).hexdigest()
    return f"{text[:8]}-0000-4000-8000-{text[8:20]}"


def draft(label: str) -> ProjectDraft:
    """The project with this label, as it is created."""
    return builders.project_draft(name=label, agent=_AGENT)


def sealed(seed: str) -> SealedSecret:
    """A sealed secret, always the same for a seed."""
    text = hashlib.sha256(seed.encode()).hexdigest()
    return SealedSecret(iv=text[:32], auth_tag=text[32:], encrypted=text[:22])


def new_execution(execution_id: str, project_id: str, idempotency_key: str | None = None) -> Execution:
    """An execution as it is created, always the same for an identifier."""
    idempotency = None if idempotency_key is None else Idempotency(idempotency_key, "ab" * 32)
    return builders.execution(project_id, id=execution_id, agent=_AGENT, idempotency=idempotency)


async def project_id(storage: Storage, label: str) -> str | None:
    """The identifier of the project with this label, None if there is none."""
    owner = await storage.projects.find_key(credential(label).digest)
    return None if owner is None else owner.project.id


@dataclass(frozen=True, slots=True)
class State:
    """All that a storage shows. `records` is what does not come out of a log; identifiers of projects are labels."""

    records: Mapping[str, Any]
    created: Mapping[str, Execution]
    executions: Mapping[str, Execution]
    logs: Mapping[str, Sequence[StoredEvent]]
    unfinished: Sequence[str]


async def shown(storage: Storage) -> State:
    """What a storage shows now."""
    names = await _labels(storage)
    records: dict[str, Any] = {"projects": sorted(names.values()), "key check": await storage.secrets.read_key_check()}
    executions, logs = {}, {}
    records["audit log"] = [record.entry for record in await storage.audit.read(0, 1000)]
    for key in MORE_KEYS:
        owner = await storage.projects.find_key(credential(key).digest)
        records[f"owner of {key}"] = None if owner is None else names.get(owner.project.id, owner.project.id)
    for label in LABELS:
        owner = await storage.projects.find_key(credential(label).digest)
        if owner is None:
            continue
        secrets = await storage.secrets.read(owner.project.id)
        listed = (await storage.executions.list(owner.project.id, 10)).items
        records[label] = (
            _without_chance(await storage.projects.read(owner.project.id)),
            await storage.projects.exists(owner.project.id),
            owner.key.credential,
            await _keys(storage, owner.project.id),
            dict(secrets.values),
            secrets.revision,
            dict(secrets.entries),
            sorted(execution.id for execution in listed),
            await _calls(storage, owner.project.id),
            (await storage.ledger.totals(owner.project.id, builders.at(0))).total,
        )
    for execution_id in EXECUTIONS:
        execution = await storage.executions.read(execution_id)
        if execution is not None:
            label = names.get(execution.project_id, execution.project_id)
            executions[execution_id] = replace(execution, project_id=label)
            logs[execution_id] = await _events(storage, execution_id)
    unfinished = sorted(execution.id for execution in await storage.executions.list_unfinished())
    created = {key: _as_created(execution) for key, execution in executions.items()}
    return State(records, created, executions, logs, unfinished)


def misfit(seen: State, wanted: State, least: Mapping[str, int]) -> str | None:
    """What distinguishes `seen` from `wanted`, apart from the ends of logs behind the first `least` events; or None."""
    if seen.records != wanted.records:
        return f"records {_difference(seen.records, wanted.records)}"
    if seen.created != wanted.created:
        return f"executions {_difference(seen.created, wanted.created)}"
    for execution_id, log in seen.logs.items():
        if tuple(log) != tuple(wanted.logs[execution_id][: len(log)]):
            return f"log of {execution_id} is no beginning of what was appended"
        if _last(log) < least.get(execution_id, 0):
            return f"log of {execution_id} ends at event {_last(log)}, not {least[execution_id]}"
        if log and log[0].sequence > 1:
            made = wanted.executions[execution_id]
        else:
            made = folded(seen.created[execution_id], map(decoded, log))
        if seen.executions[execution_id] != made:
            return f"{execution_id} is not what its log makes of it"
    running = sorted(key for key, execution in seen.executions.items() if not execution.status.terminal)
    return None if running == list(seen.unfinished) else f"unfinished are {seen.unfinished}, not {running}"


def lengths(state: State) -> Mapping[str, int]:
    """Up to which event each log goes."""
    return {execution_id: _last(log) for execution_id, log in state.logs.items()}


def durable_lengths(state: State) -> Mapping[str, int]:
    """How many events of each log are promised to outlive a loss of power: all but the text that came last."""
    found = {}
    for execution_id, log in state.logs.items():
        found[execution_id] = max((event.sequence for event in log if event.kind != "text_delta"), default=0)
    return found


def decoded(line: StoredEvent) -> Event:
    """The event of a line."""
    return event_json.decode(line.data)


async def states(steps: Sequence[Step]) -> Sequence[State]:
    """What the model shows before the first step and after each."""
    model = MemoryStorage()
    found = [await shown(model)]
    for step in steps:
        await step(model)
        found.append(await shown(model))
    return found


def create(label: str) -> Step:
    """Create a project."""

    async def step(storage: Storage) -> None:
        if await project_id(storage, label) is None:
            await storage.projects.create(draft(label), credential(label))

    return step


def with_project(label: str, work: Callable[[Storage, str], Awaitable[object]]) -> Step:
    """Do something with the project of this label; nothing if it is gone."""

    async def step(storage: Storage) -> None:
        found = await project_id(storage, label)
        if found is not None:
            await work(storage, found)

    return step


def rename(label: str, description: str) -> Step:
    """Change a project."""
    return with_project(
        label, lambda storage, found: storage.projects.update(found, ProjectChanges(description=description))
    )


def put(label: str, name: str, seed: str) -> Step:
    """Set a secret."""
    return with_project(label, lambda storage, found: put_secret(storage, found, name, sealed(seed)))


def restore(label: str, name: str, version: int) -> Step:
    """Make an earlier version of a secret the current one; nothing if that was done."""
    return with_project(label, lambda storage, found: restore_secret(storage, found, name, version))


def seal_anew(label: str) -> Step:
    """Seal all versions of a project's secrets with another key."""
    return with_project(label, lambda storage, found: reseal(storage, found, lambda old: sealed(old.encrypted)))


def change_keys(label: str, change: Callable[[ApiKeys], ApiKeys]) -> Step:
    """Change the keys of a project."""
    return with_project(label, lambda storage, found: storage.projects.change_keys(found, change))


def add_key(label: str, name: str) -> Step:
    """Give a project one more key; nothing if it has it."""
    key = ApiKey(key_id(name), name, credential(name), builders.at(0))
    return change_keys(label, lambda keys: keys if key in keys else api_key.added(keys, key, builders.at(0)))


def rotate_key(label: str, name: str, new: str, grace: timedelta) -> Step:
    """Replace a key by a new one, the old one works on for `grace`; nothing if that was done, or there is no key."""

    def change(keys: ApiKeys) -> ApiKeys:
        if any(key.id == key_id(new) for key in keys):
            return keys
        old = next((key for key in keys if key.name == name), None)
        return (
            keys if old is None else api_key.rotated(keys, old.id, key_id(new), credential(new), grace, builders.at(0))
        )

    return change_keys(label, change)


def revoke_key(label: str, name: str) -> Step:
    """Take a key away that was added or came by rotation; nothing if it is gone."""

    def change(keys: ApiKeys) -> ApiKeys:
        standing = any(key.id == key_id(name) for key in keys)
        return api_key.revoked(keys, key_id(name), False, builders.at(0)) if standing else keys

    return change_keys(label, change)


def note_key_uses(label: str) -> Step:
    """Note that all keys of a project were used."""

    async def work(storage: Storage, found: str) -> None:
        keys = await storage.projects.read_keys(found)
        await storage.projects.note_key_uses(found, {key.id: builders.at(1) for key in keys})

    return with_project(label, work)


def note(request_id: str) -> Step:
    """Record something in the audit log; nothing if that was done."""

    async def step(storage: Storage) -> None:
        if all(record.entry.request_id != request_id for record in await storage.audit.read(0, 1000)):
            await storage.audit.append(
                AuditEntry("admin", "secret.set", audit.OK, Resource(None), request_id=request_id, source="192.0.2.1")
            )

    return step


def reserve(label: str, call_id: str) -> Step:
    """Reserve what a model call may use; nothing if that was done."""

    async def work(storage: Storage, found: str) -> None:
        if all(call.reservation.call_id != call_id for call in await _calls(storage, found)):
            await storage.ledger.reserve(
                found, builders.at(0), lambda _: Reservation(_ONE, call_id, _MOST, Decimal("0.5"), builders.at(0))
            )

    return with_project(label, work)


def settle(label: str, call_id: str) -> Step:
    """Settle a call; nothing if that was done."""
    settlement = Settlement(call_id, TokenUsage(30, 10, _MODEL), Decimal("0.1"), "prices 1", False)
    return with_project(label, lambda storage, found: storage.ledger.settle(found, settlement))


def execute(label: str, execution_id: str, idempotency_key: str | None = None) -> Step:
    """Create an execution."""

    async def work(storage: Storage, found: str) -> None:
        if idempotency_key is not None or await storage.executions.read(execution_id) is None:
            await storage.executions.create(new_execution(execution_id, found, idempotency_key))

    return with_project(label, work)


def append(execution_id: str, payloads: Sequence[Payload]) -> Step:
    """Append what the log of an execution lacks of these payloads, in one call."""

    async def step(storage: Storage) -> None:
        execution = await storage.executions.read(execution_id)
        if execution is not None and len(payloads) > execution.last_sequence:
            events = builders.events(execution_id, payloads)
            await storage.executions.append(events[execution.last_sequence :])

    return step


_RUN: Final = (
    builders.queued(),
    builders.started(),
    builders.text_delta("one"),
    builders.text_delta("two"),
    builders.message("one two"),
    builders.token_used(),
    builders.text_delta("last"),
    builders.completed(),
)
STEPS: Final[Mapping[str, Step]] = {
    "put the key check": lambda storage: storage.secrets.put_key_check(sealed("check")),
    "create the first project": create("first"),
    "create the second project": create("second"),
    "update the first project": rename("first", "changed"),
    "set a secret": put("first", "TOKEN", "one"),
    "set another secret": put("first", "OTHER", "two"),
    "replace a secret": put("first", "TOKEN", "three"),
    "restore a version of a secret": restore("first", "TOKEN", 1),
    "seal the secrets anew": seal_anew("first"),
    "replace the key check": lambda storage: storage.secrets.put_key_check(sealed("new check"), sealed("check")),
    "remove a secret": with_project("first", lambda storage, found: remove_secret(storage, found, "OTHER")),
    "add a key": add_key("first", "first more"),
    "note the use of keys": note_key_uses("first"),
    "rotate a key": rotate_key("first", "first more", "first rotated", timedelta(days=1)),
    "revoke the old key": revoke_key("first", "first more"),
    "rotate the default key": rotate_key("second", "default", "second new default", timedelta(days=1)),
    "create an execution": execute("first", _ONE, "order"),
    "queue and start it": append(_ONE, _RUN[:2]),
    "record a call": note("r-1"),
    "reserve a model call": reserve("first", "c-1"),
    "append a text": append(_ONE, _RUN[:3]),
    "append another text": append(_ONE, _RUN[:4]),
    "append a message and a bill": append(_ONE, _RUN[:6]),
    "reserve another": reserve("first", "c-2"),
    "settle the first": settle("first", "c-1"),
    "settle the other": settle("first", "c-2"),
    "record another call": note("r-2"),
    "create a second execution": execute("first", _TWO),
    "claim it": with_project("first", lambda storage, _: storage.executions.claim(_TWO)),
    "append texts to it": append(_TWO, (_RUN[1], _RUN[2], _RUN[3])),
    "finish the first execution": append(_ONE, _RUN),
    "delete the first execution": with_project("first", lambda storage, _: storage.executions.delete(_ONE)),
    "create a third execution": execute("second", _THREE, "order"),
    "append to it": append(_THREE, (_RUN[1], _RUN[2])),
    "delete the first project": with_project("first", lambda storage, found: storage.projects.delete(found)),
    "update the second project": rename("second", "changed too"),
    "set a secret of the second project": put("second", "TOKEN", "four"),
    "finish the third execution": append(_THREE, (_RUN[1], _RUN[2], builders.cancelled())),
    "trim the third execution": with_project("second", lambda storage, _: storage.executions.trim(_THREE)),
    "create the third project": create("third"),
    "reserve a model call of the second project": reserve("second", "c-3"),
    "record a third call": note("r-3"),
}


async def _calls(storage: Storage, project_id: str) -> Sequence[LedgerCall]:
    return list(await storage.ledger.calls(project_id, _ONE, builders.at(0)))


async def _events(storage: Storage, execution_id: str) -> Sequence[StoredEvent]:
    """The events of a log that are there: all, or those that a trimming left."""
    try:
        return await storage.executions.read_events(execution_id, 0, 1000)
    except CursorOutOfRange as trimmed:
        return await storage.executions.read_events(execution_id, trimmed.first_sequence - 1, 1000)


def _last(log: Sequence[StoredEvent]) -> int:
    return log[-1].sequence if log else 0


async def _labels(storage: Storage) -> Mapping[str, str]:
    found = {}
    token = None
    while True:
        page = await storage.projects.list(2, token)
        found.update({project.id: project.name for project in page.items})
        token = page.next_page_token
        if token is None:
            return found


async def _keys(storage: Storage, project_id: str) -> Sequence[Any]:
    """The keys of a project without what a backend chooses itself, each with when it was used last."""
    uses = await storage.projects.read_key_uses(project_id)
    keys = await storage.projects.read_keys(project_id)
    return [(key.name, key.credential, key.expires_at, uses.get(key.id)) for key in keys]


def _without_chance(project: Project | None) -> Project | None:
    """The project without what a backend chooses itself."""
    if project is None:
        return None
    return replace(project, id=project.name, created_at=builders.START, updated_at=builders.START)


def _as_created(execution: Execution) -> Execution:
    idempotency = None if execution.idempotency is None else execution.idempotency.key
    created = new_execution(execution.id, execution.project_id, idempotency)
    same = ("prompt", "agent", "limits", "variables", "created_at", "idempotency")
    return replace(created, **{name: getattr(execution, name) for name in same})


def _difference(seen: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    keys = sorted(key for key in {*seen, *wanted} if seen.get(key) != wanted.get(key))
    return "; ".join(f"{key}: {seen.get(key)!r}, not {wanted.get(key)!r}" for key in keys)
