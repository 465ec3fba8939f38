"""The promise, end to end: real client, real HTTP, every instrumentor, any order and sampling, counted at the server.

Each case is a process of its own, since instrumentors and providers are process-wide.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
INSTRUMENTORS = ("official", "openinference", "openllmetry", "logfire")
pytestmark = pytest.mark.slow


def run(program: str, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", str(HERE / program), *arguments],
        capture_output=True,
        text=True,
        timeout=90,
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(HERE.parent), os.environ.get("PYTHONPATH", "")))},
    )
    assert done.returncode == 0, done.stderr
    outcome: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return outcome


def assert_enforced(outcome: dict[str, Any]) -> None:
    """Two requests of three at the server, one denial for the caller, counters and totals that add up."""
    assert (outcome["answers"], outcome["requests"]) == (2, 2)
    assert outcome["refused"] == ["limit", "steps"]
    assert outcome["escaped"] is None
    assert [outcome["used"][name] for name in ("steps", "tokens", "input_tokens")] == [2, 300, 200]
    counters = outcome["counters"]
    checks = "otelbudget_checks_total{budget=two,decision=%s,operation=call,reason=%s,resource=%s,tenant=acme}"
    assert {k: v for k, v in counters.items() if k.startswith("otelbudget_checks_total")} == {
        checks % ("allow", "", ""): 2,
        checks % ("deny", "limit", "steps"): 1,
    }
    assert counters["otelbudget_records_total{budget=two,tenant=acme}"] == 2
    tokens = {k: v for k, v in counters.items() if k.startswith("otelbudget_tokens_total")}
    assert sum(tokens.values()) == 300


def named(span: dict[str, Any]) -> list[str]:
    return [event["name"].removeprefix("otelbudget.") for event in span["events"]]


@pytest.mark.parametrize(
    ("instrumentor", "order"),
    [("none", "before"), *((name, order) for name in INSTRUMENTORS for order in ("before", "after"))],
)
def test_two_of_three_calls_leave_and_every_decision_is_on_its_span(instrumentor: str, order: str) -> None:
    outcome = run("three_calls.py", instrumentor, order, "always_on")
    assert_enforced(outcome)
    if instrumentor == "logfire" and order == "after":
        return  # unconfigured, it writes its spans nowhere
    calls = [span for span in outcome["spans"] if "check" in named(span)]
    assert [named(span) for span in calls] == [["check", "record"], ["check", "record"], ["check"]]
    assert [span["events"][0]["attributes"]["otelbudget.decision"] for span in calls] == ["allow", "allow", "deny"]
    assert calls[-1]["status"] == "ERROR"
    assert calls[-1]["attributes"]["otelbudget.reason"] == "limit"
    if instrumentor != "none":
        assert {span["scope"] for span in calls} != {"otelbudget"}
    (whole,) = [span for span in outcome["spans"] if span["name"] == "otelbudget.run two"]
    totals = {k.removeprefix("otelbudget.used."): v for k, v in whole["attributes"].items() if ".used." in k}
    assert (totals["steps"], totals["tokens"], totals["input_tokens"], totals["output_tokens"]) == (2, 300, 200, 100)
    records = [event["attributes"] for span in calls for event in span["events"] if event["name"].endswith("record")]
    assert sum(record["otelbudget.tokens.input"] for record in records) == totals["input_tokens"]
    assert sum(record["otelbudget.tokens.output"] for record in records) == totals["output_tokens"]


@pytest.mark.parametrize("sampler", ["always_off", "disabled"])
@pytest.mark.parametrize("instrumentor", ["none", "official", "openinference", "openllmetry"])
def test_without_sampling_or_sdk_the_same_calls_leave_and_nothing_is_exported(instrumentor: str, sampler: str) -> None:
    outcome = run("three_calls.py", instrumentor, "after", sampler)
    assert_enforced(outcome)
    assert outcome["spans"] == []


@pytest.mark.parametrize("sampler", ["always_on", "always_off"])
@pytest.mark.parametrize("instrumentor", ["none", "openai"])
def test_a_bare_loop_stops_at_the_process_wide_budget_and_a_pool_spends_its_run_s(
    instrumentor: str, sampler: str
) -> None:
    outcome = run("bare_loop.py", instrumentor, sampler)
    assert outcome["bare_requests"] == 5
    assert "process-wide run" in outcome["message"]
    assert "with otelbudget.run(" in outcome["message"]
    assert (outcome["in_pool"], outcome["run_steps"], outcome["pool_requests"]) == (3, 3, 3)
    assert outcome["after_run"] == 0
