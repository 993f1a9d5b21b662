"""Alerts, dashboard and documentation name what a server exposes, and nothing else."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.metrics_core import Metric

from cloutagent_server.domain.cost import BudgetScope, ExceededLimit
from cloutagent_server.domain.events import FailureReason
from cloutagent_server.domain.metrics import CallOutcome, StorageFault
from cloutagent_server.monitoring.measured_storage import operations_of
from cloutagent_server.service.attempts import DEFAULT_FAILURES_PER_MINUTE
from cloutagent_server.storage.base import ExecutionStorage, Ledger
from tests.support.scraping import Scrape, watched_server

REPOSITORY = Path(__file__).parents[3]
# What Prometheus adds to each series by itself.
OF_THE_SCRAPER = {"job", "instance"}
WORDS = {"and", "or", "unless", "bool", "offset"}
# The labels whose values are those of an enumeration, so that a misspelled one would match nothing, for ever.
VALUES = {
    "outcome": [*CallOutcome],
    "fault": [*StorageFault],
    "scope": [*BudgetScope],
    "limit": [*ExceededLimit],
    "reason": [*FailureReason],
    "code": ["OK", "INTERNAL", "DATA_LOSS", "UNAUTHENTICATED"],
    "operation": [
        f"{part}.{name}"
        for part, contract in (("executions", ExecutionStorage), ("ledger", Ledger))
        for name in operations_of(contract)
    ],
}


@pytest.fixture
async def scrape(tmp_path: Path) -> Scrape:
    """What a server exposes that has done something of everything that needs no vendor."""
    async with watched_server(tmp_path) as server:
        project = await server.projects()
        await project.call("Execute", prompt="hello")
        return await server.scrape()


def alerts() -> list[dict[str, Any]]:
    document = yaml.safe_load((REPOSITORY / "deploy/prometheus/alerts.yml").read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    document = json.loads((REPOSITORY / "deploy/grafana/cloutagent.json").read_text())
    return [panel for panel in document["panels"] if panel["type"] != "row"]


def expressions() -> Sequence[str]:
    return [
        *(rule["expr"] for rule in alerts()),
        *(target["expr"] for panel in panels() for target in panel["targets"]),
    ]


def metrics_in(expression: str) -> Iterator[tuple[str, set[str]]]:
    """The metrics of an expression, each with the labels that it is selected by."""
    bare = re.sub(r"\[[^\]]*\]|\b(by|without|on|ignoring)\s*\([^)]*\)", "", expression)
    for name, selector in re.findall(r"([a-z_:][a-z0-9_:]*)\{([^}]*)\}", bare):
        yield name, set(re.findall(r"(\w+)\s*[=!]", selector))
    for name in re.findall(r"\b[a-z_:][a-z0-9_:]*\b(?!\s*[({])", re.sub(r"\{[^}]*\}", "{}", bare)):
        if name not in WORDS:
            yield name, set()


def grouped_in(expression: str) -> set[str]:
    return {label.strip() for group in re.findall(r"\bby\s*\(([^)]*)\)", expression) for label in group.split(",")} - {
        "le"
    }


def samples_of(families: Sequence[Metric]) -> dict[str, str]:
    """The family of each name that a series may have."""
    found = {}
    for family in families:
        ends = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(family.type, ("",))
        found.update({family.name + end: family.name for end in ends})
    return found


def documented(prefix: str = "cloutagent_") -> dict[str, tuple[str, set[str]]]:
    """A table of the documentation: type and labels by metric."""
    text = (REPOSITORY / "docs/operations.md").read_text()
    rows = re.findall(rf"^\| `({prefix}\w+)` \| (\w+) \| ([\w, ]*)\|", text, re.MULTILINE)
    return {name: (kind, {label.strip() for label in labels.split(",")} - {""}) for name, kind, labels in rows}


def test_metrics_are_found_in_an_expression() -> None:
    text = 'histogram_quantile(0.9, sum by (le, a) (rate(x_bucket{b=~"c|d",e!="f"}[5m]))) / y > 0.5 and z{g="h"} > 1'
    assert dict(metrics_in(text)) == {"x_bucket": {"b", "e"}, "y": set(), "z": {"g"}}
    assert grouped_in(text) == {"a"}


async def test_alerts_and_dashboard_use_what_is_exposed(scrape: Scrape) -> None:
    tables = documented() | documented("envoy_")
    known, labels = samples_of(scrape.families), {name: set(of) for name, (_, of) in tables.items()}
    # That these are what a real Envoy exposes is shown where one runs.
    known |= {name: name for name in documented("envoy_")}
    used: set[str] = set()
    assert len(expressions()) >= 40
    for expression in expressions():
        found = list(metrics_in(expression))
        assert found, expression
        for name, selected in found:
            if name == "up":
                continue
            assert name in known, (name, expression)
            used.add(known[name])
            if known[name].startswith(("cloutagent_", "envoy_")):
                has = next(labels[one] for one in labels if known[name] in (one, one.removesuffix("_total")))
                assert selected | grouped_in(expression) <= has | OF_THE_SCRAPER, expression
    # What is worth counting is worth a panel.
    assert {name for name in known.values() if name.startswith(("cloutagent_", "envoy_"))} <= used


def test_matchers_match_something() -> None:
    matched = 0
    for expression in expressions():
        for label, operator, value in re.findall(r'(\w+)(=~|!=|=)"([^"]*)"', expression):
            for choice in value.split("|") if label in VALUES else ():
                matched += 1
                assert any(re.fullmatch(choice, str(one)) for one in VALUES[label]), (label, operator, choice)
    assert matched >= 10


async def test_the_table_of_the_documentation_is_what_is_exposed(scrape: Scrape) -> None:
    exposed = {name: kind for name, kind in scrape.names.items() if not name.startswith("process_")}
    assert {name: kind for name, (kind, _) in documented().items()} == exposed
    for name, (_, labels) in documented().items():
        # Those of the model gateway have no samples without an agent.
        if scrape.labels(name):
            assert scrape.labels(name) == labels, name


async def test_interruptions_are_alerted_that_the_first_scrape_tells(scrape: Scrape) -> None:
    (expression,) = [rule["expr"] for rule in alerts() if rule["alert"] == "CloutAgentRunsInterrupted"]
    risen, new = expression.split("\nor\n")
    assert "increase(" in risen and not re.search("increase|rate", new)
    ended, bound = new.split("and on (job, instance)")
    (seconds,) = re.findall(r"time\(\) - process_start_time_seconds < (\d+)", bound)
    assert [name for name, _ in metrics_in(ended)] == ["cloutagent_executions_ended_total"]
    # What it compares is what a server tells of its own start.
    assert 0 <= time.time() - scrape.sum("process_start_time_seconds") < 10 * float(seconds)


def test_tried_keys_are_alerted_at_the_limit_of_one_address() -> None:
    (expression,) = [rule["expr"] for rule in alerts() if 'code="UNAUTHENTICATED"' in rule["expr"]]
    (a_minute,) = re.findall(r"\* 60 > (\d+)", expression)
    assert 0 < int(a_minute) < DEFAULT_FAILURES_PER_MINUTE


def test_alerts_are_whole() -> None:
    names = [rule["alert"] for rule in alerts()]
    assert len(names) == len(set(names)) >= 10
    for rule in alerts():
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert set(rule["annotations"]) == {"summary", "remedy"}
        assert rule["expr"].count("(") == rule["expr"].count(")")


def test_the_dashboard_is_whole() -> None:
    places = [
        (x, y)
        for panel in panels()
        for box in [panel["gridPos"]]
        for x in range(box["x"], box["x"] + box["w"])
        for y in range(box["y"], box["y"] + box["h"])
    ]
    assert len(places) == len(set(places)) and all(x < 24 for x, _ in places)
    ids = [panel["id"] for panel in panels()]
    assert len(ids) == len(set(ids))
    for panel in panels():
        assert panel["title"] and panel["targets"]
