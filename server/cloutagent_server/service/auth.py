"""Who calls: API keys, their hashes, and the principal behind a key."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeVar

import bcrypt

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.api_key import ApiKey
from cloutagent_server.domain.metrics import NO_METRICS, Metrics
from cloutagent_server.domain.project import KeyCredential, Project
from cloutagent_server.service.key_uses import KeyUses
from cloutagent_server.storage.base import ProjectStorage

T = TypeVar("T")

KEY_PATTERN: Final = re.compile(r"cla_[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
BCRYPT_COST: Final = 10
UNGUESSABLE_LENGTH: Final = 32
"""Characters from which on an admin key is taken for one that nobody finds by trying: 128 bits in hex."""
CACHE_SECONDS: Final = 60.0
CACHE_ENTRIES: Final = 10_000


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls.

    Attributes:
        project: The project whose key was used; None for the admin.
        key_id: Identifier of the key, which stands for it in logs; `admin` for the admin key.
    """

    project: Project | None
    key_id: str

    @property
    def admin(self) -> bool:
        """Whether the admin key was used."""
        return self.project is None


def digest_of(api_key: str) -> str:
    """SHA-256 of a key in hex: what leads to its project."""
    return hashlib.sha256(api_key.encode()).hexdigest()


class Authenticator:
    """Makes API keys and tells whose a key is.

    The look-up costs the same for any number of projects: the key's digest leads to its project, and bcrypt, off the
    event loop, confirms it; calls that come meanwhile with the same key wait for the same check. A key that was
    confirmed is not hashed again for up to 60 seconds, as long as the stored hash stays the one that it was confirmed
    against. The look-up is made at every call, so a key that was rotated or revoked, has expired, or whose project is
    gone, stops working at once, whichever process did that.

    Attributes:
        uses: When keys were last used.
    """

    def __init__(
        self,
        projects: ProjectStorage,
        admin_key: str | None = None,
        clock: Callable[[], datetime] = timestamps.now,
        metrics: Metrics = NO_METRICS,
    ) -> None:
        """`clock` tells whether a key has expired."""
        self.uses = KeyUses(projects)
        self._projects = projects
        self._clock = clock
        self._metrics = metrics
        self._admin_digest = digest_of(admin_key) if admin_key else None
        self._admin_guessable = admin_key is not None and len(admin_key) < UNGUESSABLE_LENGTH
        self._confirmed: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._checks: dict[KeyCredential, asyncio.Task[bool]] = {}
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="bcrypt")

    @property
    def has_admin(self) -> bool:
        """Whether the operator has set an admin key."""
        return self._admin_digest is not None

    @property
    def admin_guessable(self) -> bool:
        """Whether the admin key is so short that it could be found by trying."""
        return self._admin_guessable

    def generate_api_key(self) -> str:
        """A new key: `cla_` and a random UUID (122 random bits)."""
        return f"cla_{uuid.uuid4()}"

    async def hash_api_key(self, api_key: str) -> str:
        """The key's bcrypt hash, cost 10. Takes about 50 ms of a thread, none of the event loop."""
        hashed = await self._in_thread(lambda: bcrypt.hashpw(api_key.encode(), bcrypt.gensalt(BCRYPT_COST)))
        return hashed.decode()

    async def credential_for(self, api_key: str) -> KeyCredential:
        """What the server keeps of a key."""
        return KeyCredential(digest_of(api_key), await self.hash_api_key(api_key))

    async def validate_api_key(self, api_key: str) -> Project | None:
        """The project whose key this is; None if it is nobody's."""
        found = await self._validate(api_key)
        return None if found is None else found[0]

    async def authenticate(self, api_key: str) -> Principal | None:
        """The principal behind a key, the admin's included; None if the key is not valid."""
        if self._admin_digest is not None and hmac.compare_digest(self._admin_digest, digest_of(api_key)):
            return Principal(None, "admin")
        found = await self._validate(api_key)
        return None if found is None else Principal(found[0], found[1].id)

    def close(self) -> None:
        """Release the hashing threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def stop(self) -> None:
        """Store when keys were last used, and close."""
        await self.uses.stop()
        self.close()

    async def _validate(self, api_key: str) -> tuple[Project, ApiKey] | None:
        if KEY_PATTERN.fullmatch(api_key) is None:
            return None
        digest = digest_of(api_key)
        owner = await self._projects.find_key(digest)
        if owner is None or not hmac.compare_digest(owner.key.credential.digest, digest):
            return None
        if not owner.key.works_at(self._clock()) or not await self._confirms(api_key, owner.key.credential):
            return None
        self.uses.note(owner.project.id, owner.key.id, self._clock())
        return owner.project, owner.key

    async def _confirms(self, api_key: str, credential: KeyCredential) -> bool:
        known = self._confirmed.get(credential.digest)
        if known is not None and known[1] > time.monotonic() and hmac.compare_digest(known[0], credential.hash):
            self._metrics.key_remembered()
            return True
        check = self._checks.get(credential)
        if check is None:
            check = asyncio.get_running_loop().create_task(self._check(api_key, credential))
            self._checks[credential] = check
            check.add_done_callback(lambda _: self._checks.pop(credential))
        return await asyncio.shield(check)

    async def _check(self, api_key: str, credential: KeyCredential) -> bool:
        now = time.monotonic()
        self._confirmed.pop(credential.digest, None)
        try:
            valid = await self._in_thread(lambda: bcrypt.checkpw(api_key.encode(), credential.hash.encode()))
        except ValueError:
            return False
        self._metrics.key_hashed(time.monotonic() - now)
        if valid:
            self._confirmed[credential.digest] = (credential.hash, now + CACHE_SECONDS)
            if len(self._confirmed) > CACHE_ENTRIES:
                self._confirmed.popitem(last=False)
        return valid

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)
