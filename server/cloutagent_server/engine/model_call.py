"""One request to the vendor: sends it, passes the answer on, and meters it while it passes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import aiohttp
from aiohttp import web

from cloutagent_server.domain.cost import TokenUsage
from cloutagent_server.domain.metrics import CallOutcome
from cloutagent_server.engine import messages_api
from cloutagent_server.engine.base import CallEnd, PriceList
from cloutagent_server.engine.held_body import HeldBody
from cloutagent_server.engine.metering import CallMeter, StreamMeter, error_of
from cloutagent_server.engine.redacting import StreamRedactor
from cloutagent_server.engine.session import GatewaySession, VendorError
from cloutagent_server.engine.upstream import AnswerTooLong, Upstream, json_or_none

_TOO_LONG: Final = "its answer is longer than the Messages API gives any"
_BROKEN: Final = "its answer broke off"


@dataclass(slots=True)
class ModelCall:
    """A call under way.

    Attributes:
        end: How its bill would stand if it ended now.
        outcome: How it would have ended.
        first_byte: Seconds until the vendor began to answer; None before.
    """

    id: str
    meter: CallMeter
    prices: PriceList
    end: CallEnd = CallEnd.FREE
    outcome: CallOutcome = CallOutcome.CUT
    first_byte: float | None = None

    @property
    def usage(self) -> TokenUsage | None:
        """What it has used so far. Where several models may have, all of it is counted for the dearest of them."""
        usage = self.meter.usage
        if usage is None or not self.meter.others:
            return usage
        models = {usage.model or "", *self.meter.others}
        if not all(self.prices.knows(model) for model in models):
            # Nobody knows what a model costs that has no price here.
            models = {usage.model or "", *(model.id for model in self.prices.models())}
        usages = [replace(usage, model=model) for model in sorted(models) if self.prices.knows(model)]
        return max(usages, key=self.prices.cost)


class Relay:
    """Carries one request of a session to the vendor and the answer back. Without a call it is not metered."""

    def __init__(
        self, upstream: Upstream, session: GatewaySession, request: web.Request, call: ModelCall | None = None
    ) -> None:
        self._upstream = upstream
        self._session = session
        self._request = request
        self._call = call

    async def send(self, path: str, data: bytes, clearance: asyncio.Future[int] | None = None) -> web.StreamResponse:
        """Send a body to a path of the vendor, once it is cleared, and answer with what comes.

        Raises:
            Exception: What the clearance raised; then nothing went out.
        """
        self._session.last_error = None
        body = HeldBody(data, clearance, partial(self._ends, CallEnd.CUT))
        beta = self._request.query.get("beta") == "true"
        try:
            answer = await self._upstream.post(path, body, self._request.headers, beta=beta)
        except (aiohttp.ClientError, TimeoutError) as fault:
            if isinstance(fault, TimeoutError) and not isinstance(fault, aiohttp.ConnectionTimeoutError):
                self._fails(CallOutcome.TIMEOUT, self._silence())
                return error_answer(504, "timeout_error", "the model's API does not answer")
            self._fails(CallOutcome.UNREACHABLE, VendorError(None, "it cannot be reached"))
            return error_answer(502, "api_error", "the model's API cannot be reached")
        if self._call is not None and body.went_out is not None:
            self._call.first_byte = time.perf_counter() - body.went_out
        try:
            if self._call is not None and answer.status == 200 and answer.content_type == "text/event-stream":
                return await self._relay_stream(answer, self._call)
            return await self._relay_document(answer)
        finally:
            answer.close()

    def _ends(self, end: CallEnd) -> None:
        if self._call is not None:
            self._call.end = end

    def _fails(self, outcome: CallOutcome, error: VendorError) -> None:
        self._session.last_error = error
        self._comes_to(outcome)

    def _comes_to(self, outcome: CallOutcome) -> None:
        if self._call is not None:
            self._call.outcome = outcome

    def _silence(self) -> VendorError:
        return VendorError(None, f"it sent nothing for {self._upstream.silence_seconds:g} s")

    def _headers(self, answer: aiohttp.ClientResponse) -> dict[str, str]:
        return self._upstream.redactor.headers(messages_api.response_headers(answer.headers))

    async def _relay_document(self, answer: aiohttp.ClientResponse) -> web.Response:
        session, call = self._session, self._call
        if 400 <= answer.status < 500:
            self._ends(CallEnd.FREE)
        try:
            data = await self._upstream.document(answer)
        except TimeoutError:
            self._fails(CallOutcome.TIMEOUT, self._silence())
            return error_answer(504, "timeout_error", "the answer of the model's API stopped")
        except AnswerTooLong:
            self._fails(CallOutcome.BROKEN, VendorError(None, _TOO_LONG))
            return error_answer(502, "api_error", "the answer of the model's API is too long")
        except aiohttp.ClientError:
            self._fails(CallOutcome.BROKEN, VendorError(None, _BROKEN))
            return error_answer(502, "api_error", "the answer of the model's API broke off")
        document = json_or_none(data)
        if answer.status >= 400:
            error = error_of(document)
            if error is not None:
                # The vendor itself refused it. A proxy that gave up waiting says nothing about what the vendor did.
                self._ends(CallEnd.FREE)
            message = error.message if error else self._upstream.redactor.text(answer.reason or "")
            self._fails(CallOutcome.VENDOR_ERROR, VendorError(answer.status, message))
        elif call is not None and isinstance(document, Mapping):
            call.meter.answered_by(document.get("model"))
            call.meter.report(document.get("usage"))
            call.outcome = CallOutcome.OK
            if answer.status == 200 and call.meter.exact:
                call.end = CallEnd.TOLD
            await session.report(call.id, call.usage)
        else:
            self._comes_to(CallOutcome.BROKEN)
        return web.Response(status=answer.status, body=data, headers=self._headers(answer))

    async def _relay_stream(self, answer: aiohttp.ClientResponse, call: ModelCall) -> web.StreamResponse:
        session, request = self._session, self._request
        response = web.StreamResponse(status=answer.status, headers=self._headers(answer))
        stream, redactor = StreamMeter(call.meter), StreamRedactor(self._upstream.redactor)
        whole = False
        await response.prepare(request)
        try:
            while chunk := await answer.content.readany():
                passed = redactor.feed(chunk)
                # The agent has it first: what is told in it is reserved already, and counted whatever becomes of it.
                try:
                    written = await _written(response, passed)
                finally:
                    stream.feed(passed)
                if stream.overlong:
                    self._fails(CallOutcome.BROKEN, VendorError(None, _TOO_LONG))
                    break
                if stream.error is not None:
                    # Told before the agent can end because of it.
                    session.last_error = VendorError(None, stream.error.message)
                if not written or not await session.report(call.id, call.usage):
                    break
            else:
                rest = redactor.end()
                stream.feed(rest)
                whole = await _written(response, rest)
                self._comes_to(CallOutcome.OK)
        except TimeoutError:
            self._fails(CallOutcome.TIMEOUT, self._silence())
        except aiohttp.ClientError:
            self._fails(CallOutcome.BROKEN, VendorError(None, _BROKEN))
        finally:
            stream.end()
            if stream.final and call.meter.exact:
                call.end = CallEnd.TOLD
            elif stream.error is not None and not stream.begun:
                call.end = CallEnd.FREE
            await session.report(call.id, call.usage)
        if stream.error is not None:
            self._fails(CallOutcome.VENDOR_ERROR, VendorError(None, stream.error.message))
        if not whole and request.transport is not None:
            # What was cut must look cut to the agent, too: the body gets no regular end.
            request.transport.close()
        return response


async def _written(response: web.StreamResponse, data: bytes) -> bool:
    if not data:
        return True
    try:
        await response.write(data)
    except ConnectionError:
        return False
    return True


def error_answer(status: int, kind: str, message: str) -> web.Response:
    """An error of the gateway's own, in the form of the Messages API."""
    return web.Response(status=status, body=messages_api.error_body(kind, message), content_type="application/json")
