# Generated from cloutagent/_async by `make generate`. Do not edit.
"""Calls: their deadline, their key, their retries."""

from __future__ import annotations

import logging
from threading import Lock
from typing import Final, TypeVar

import grpc

from cloutagent._configuration import Configuration
from cloutagent._ending import Ending
from cloutagent._failures import failure_of, unreadable
from cloutagent._identity import new_request_id
from cloutagent._owner import SYNC_ADVICE, sync_interrupted, sync_owner
from cloutagent._retry import Attempts
from cloutagent._sync.channel import Connection
from cloutagent.errors import ApiError, NoProjectError
from cloutagent.v1.project_pb2 import GetCurrentProjectRequest

log: Final = logging.getLogger("cloutagent")

Request = TypeVar("Request")
Answer = TypeVar("Answer")


class Transport:
    """Makes the calls of one client.

    Attributes:
        configuration: What the client was made with.
    """

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self._lock = Lock()
        self._connection: Connection | None = None
        self._owner: object = None
        self._ending = Ending()
        self._own_project: str | None = None

    @property
    def connection(self) -> Connection:
        """The connection, opened when it is first asked for. Raises RuntimeError where it may not be used."""
        with self._lock:
            self.check_open()
            self.check_owner()
            if self._connection is None:
                self._connection, self._owner = Connection(self.configuration), sync_owner()
            return self._connection

    def call(
        self,
        method: grpc.UnaryUnaryMultiCallable[Request, Answer],
        request: Request,
        timeout: float | None,
        *,
        repeatable: bool = False,
        patient: bool = False,
    ) -> Answer:
        """Make a unary call. Raises ApiError.

        One that is `repeatable` is made again when it fails for a moment; with `patient`, until its time is up.
        """
        within = self.configuration.timeout if timeout is None else timeout
        attempts = Attempts(self.configuration.retry, within, repeatable=repeatable, patient=patient)
        request_id = new_request_id()
        while True:
            self.check_open()
            try:
                answer = method(request, timeout=attempts.timeout(), metadata=self.metadata(request_id))
            except grpc.RpcError as error:
                failure = failure_of(error, request_id)
            except BaseException:
                if not sync_interrupted():
                    self.check_open()
                raise
            else:
                if answer is not None:
                    return answer
                failure = unreadable(request_id)
            self.wait(attempts.pause(failure), failure)

    def metadata(self, request_id: str) -> tuple[tuple[str, str], ...]:
        """What goes with a call."""
        key = self.configuration.api_key
        return (("x-request-id", request_id), *((("x-api-key", key),) if key is not None else ()))

    def check_open(self) -> None:
        """Raise RuntimeError if the client was closed."""
        if self._ending.is_set():
            raise RuntimeError("the client is closed")

    def check_owner(self) -> None:
        """Raise RuntimeError where the connection may not be used."""
        if self._owner not in (None, sync_owner()):
            raise RuntimeError(SYNC_ADVICE)

    def wait(self, seconds: float, failure: ApiError) -> None:
        """Wait before a call is made again, or until the client is closed."""
        log.debug("trying again in %.2f s: %s", seconds, failure)
        self._ending.pause(seconds)

    def project(self, given: str | None, timeout: float | None) -> str:
        """The project that a call is about: the one it names, the client's, or the one that the key belongs to.

        The latter is asked for once, in a call that has the same `timeout`.
        """
        known = given or self.configuration.project_id or self._own_project
        if known is not None:
            return known
        method = self.connection.projects.GetCurrentProject
        current = self.call(method, GetCurrentProjectRequest(), timeout, repeatable=True)
        if not current.HasField("project"):
            raise NoProjectError("the admin key belongs to no project: name one by project_id")
        self._own_project = current.project.id
        return current.project.id

    def close(self) -> None:
        """End what is under way and take no more calls."""
        with self._lock:
            self._ending.set()
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.channel.close()
