"""`Metrics` for Prometheus.

No label has a value that callers or agents choose: methods, codes and operations are those that exist, models those of
the price list.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable
from decimal import Decimal
from functools import lru_cache
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)

from cloutagent_server.domain.cost import BudgetScope, ExceededLimit, TokenUsage
from cloutagent_server.domain.events import FailureReason
from cloutagent_server.domain.execution import Status
from cloutagent_server.domain.metrics import CallOutcome, Metrics, StorageFault
from cloutagent_server.engine.base import PriceList

OTHER_MODEL: Final = "other"

_PREFIX: Final = "cloutagent"
# Each bucket is a line of each method and operation at each scrape.
_CALL_SECONDS: Final = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30)
_STORAGE_SECONDS: Final = (0.0002, 0.001, 0.005, 0.02, 0.1, 0.25, 0.5, 2.5)
_HASH_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_VENDOR_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 90)
_WAIT_SECONDS: Final = (0.01, 0.1, 1, 5, 15, 60, 300, 900, 3600)
# A rate begins with the second value that is seen: so these are there with 0 before anything is wrong.
_CODES: Final = ("OK", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED")

disable_created_metrics()  # type: ignore[no-untyped-call]


class PrometheusMetrics(Metrics):
    """Counts in a registry of its own, which has the figures of the process (CPU, memory, descriptors), too."""

    def __init__(self, prices: PriceList, version: str) -> None:
        """`prices` tells which models are named."""
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._model_of = lru_cache(1024)(lambda name: _listed(prices, name))
        build = Info(f"{_PREFIX}_build", "Version of the server and of Python.", registry=registry)
        build.info({"version": version, "python": platform.python_version()})

        self._methods: dict[str, _Method] = {}
        self._calls = Counter(
            f"{_PREFIX}_grpc_requests_total", "Calls that ended.", ("method", "code"), registry=registry
        )
        self._call_seconds = Histogram(
            f"{_PREFIX}_grpc_request_duration_seconds",
            "Duration of calls with one answer.",
            ("method",),
            buckets=_CALL_SECONDS,
            registry=registry,
        )
        self._in_flight = Gauge(
            f"{_PREFIX}_grpc_requests_in_flight", "Calls with one answer under way.", ("method",), registry=registry
        )
        self._streams = Gauge(f"{_PREFIX}_grpc_streams", "Open streams.", ("method",), registry=registry)
        self._watchers = Gauge(f"{_PREFIX}_watchers", "Those who follow the log of an execution.", registry=registry)

        self._waiting = Gauge(f"{_PREFIX}_queue_length", "Executions that wait for their turn.", registry=registry)
        self._running = Gauge(f"{_PREFIX}_executions_running", "Executions that run.", registry=registry)
        self._wait_seconds = Histogram(
            f"{_PREFIX}_queue_wait_seconds",
            "Time that executions waited for their turn.",
            buckets=_WAIT_SECONDS,
            registry=registry,
        )
        self._ended = Counter(
            f"{_PREFIX}_executions_ended_total",
            "Executions that ended; reason is empty for those that did not fail.",
            ("status", "reason"),
            registry=registry,
        )
        self._refusals = Counter(
            f"{_PREFIX}_budget_refusals_total",
            "Model calls and executions for which a limit left no room.",
            ("scope", "limit"),
            registry=registry,
        )

        self._tokens = Counter(
            f"{_PREFIX}_model_tokens_total", "Tokens of settled model calls.", ("model", "kind"), registry=registry
        )
        self._cost = Counter(
            f"{_PREFIX}_model_cost_usd_total", "US dollars of settled model calls.", ("model",), registry=registry
        )
        self._model_calls = Counter(
            f"{_PREFIX}_model_calls_total", "Model calls of agents by outcome.", ("model", "outcome"), registry=registry
        )
        self._first_byte = Histogram(
            f"{_PREFIX}_model_first_byte_seconds",
            "Time until the vendor began to answer a model call.",
            ("model",),
            buckets=_VENDOR_SECONDS,
            registry=registry,
        )

        self._operations: dict[str, Callable[[float], None]] = {}
        self._storage_seconds = Histogram(
            f"{_PREFIX}_storage_operation_seconds",
            "Duration of operations of the storage.",
            ("operation",),
            buckets=_STORAGE_SECONDS,
            registry=registry,
        )
        self._storage_errors = Counter(
            f"{_PREFIX}_storage_errors_total",
            "Operations of the storage that failed.",
            ("operation", "fault"),
            registry=registry,
        )
        self._hash_seconds = Histogram(
            f"{_PREFIX}_bcrypt_check_seconds",
            "Duration of bcrypt checks of API keys, with the wait for a thread.",
            buckets=_HASH_SECONDS,
            registry=registry,
        )
        self._remembered = Counter(
            f"{_PREFIX}_key_cache_hits_total", "API keys that needed no bcrypt check.", registry=registry
        )
        self._begin_at_zero()

    def follow_queue(self, waiting: Callable[[], int], running: Callable[[], int]) -> None:
        """Have these two numbers read whenever somebody asks."""
        self._waiting.set_function(waiting)
        self._running.set_function(running)

    def expect(self, methods: Iterable[str], operations: Iterable[str]) -> None:
        """Begin to count the ends of calls and the faults of the storage: 0 of each that an alert is about.

        Durations begin with the first call, for their lines are many.
        """
        for method in methods:
            for code in _CODES:
                self._calls.labels(method, code)
        for operation in operations:
            for fault in StorageFault:
                self._storage_errors.labels(operation, fault.value)

    def call_started(self, method: str, *, stream: bool) -> None:
        """See `Metrics`."""
        self._method(method, stream).under_way.inc()

    def call_ended(self, method: str, code: str, seconds: float, *, stream: bool) -> None:
        """See `Metrics`."""
        known = self._method(method, stream)
        known.under_way.dec()
        known.ended(code)
        if known.seconds is not None:
            known.seconds.observe(seconds)

    def watch_started(self) -> None:
        """See `Metrics`."""
        self._watchers.inc()

    def watch_ended(self) -> None:
        """See `Metrics`."""
        self._watchers.dec()

    def execution_dequeued(self, waited: float) -> None:
        """See `Metrics`."""
        self._wait_seconds.observe(waited)

    def execution_ended(self, status: Status, reason: FailureReason | None) -> None:
        """See `Metrics`."""
        self._ended.labels(status.value, "" if reason is None else reason.value).inc()

    def budget_refused(self, scope: BudgetScope, limit: ExceededLimit) -> None:
        """See `Metrics`."""
        self._refusals.labels(scope.value, limit.value).inc()

    def model_call_ended(self, model: str, outcome: CallOutcome, first_byte: float | None) -> None:
        """See `Metrics`."""
        name = self._model_of(model)
        for each in CallOutcome:
            self._model_calls.labels(name, each.value).inc(each is outcome)
        if first_byte is not None:
            self._first_byte.labels(name).observe(first_byte)

    def call_settled(self, usage: TokenUsage, cost: Decimal) -> None:
        """See `Metrics`."""
        name = self._model_of(usage.model or "")
        self._tokens.labels(name, "prompt").inc(usage.prompt_tokens)
        self._tokens.labels(name, "completion").inc(usage.completion_tokens)
        self._cost.labels(name).inc(float(cost))

    def storage_used(self, operation: str, seconds: float, fault: StorageFault | None) -> None:
        """See `Metrics`."""
        observe = self._operations.get(operation)
        if observe is None:
            observe = self._operations[operation] = self._storage_seconds.labels(operation).observe
        observe(seconds)
        if fault is not None:
            self._storage_errors.labels(operation, fault.value).inc()

    def key_hashed(self, seconds: float) -> None:
        """See `Metrics`."""
        self._hash_seconds.observe(seconds)

    def key_remembered(self) -> None:
        """See `Metrics`."""
        self._remembered.inc()

    def _method(self, method: str, stream: bool) -> _Method:
        known = self._methods.get(method)
        if known is None:
            known = self._methods[method] = _Method(
                self._calls,
                method,
                (self._streams if stream else self._in_flight).labels(method),
                None if stream else self._call_seconds.labels(method),
            )
        return known

    def _begin_at_zero(self) -> None:
        for scope in BudgetScope:
            for limit in ExceededLimit:
                self._refusals.labels(scope.value, limit.value)
        for reason in FailureReason:
            self._ended.labels(Status.FAILED.value, reason.value)
        for status in (Status.COMPLETED, Status.CANCELLED):
            self._ended.labels(status.value, "")


class _Method:
    """What is counted of one method, found once."""

    __slots__ = ("_calls", "_codes", "_name", "seconds", "under_way")

    def __init__(self, calls: Counter, name: str, under_way: Gauge, seconds: Histogram | None) -> None:
        self._calls = calls
        self._name = name
        self._codes = {code: calls.labels(name, code) for code in _CODES}
        self.under_way = under_way
        self.seconds = seconds

    def ended(self, code: str) -> None:
        """Count a call that ended with this code."""
        counter = self._codes.get(code)
        if counter is None:
            counter = self._codes[code] = self._calls.labels(self._name, code)
        counter.inc()


def _listed(prices: PriceList, name: str) -> str:
    model = prices.model(name)
    return OTHER_MODEL if model is None else model.id
