"""What binds a call is found as the engine finds it, widest scope first, and each limit says why and from where."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from otelbudget.cli.explain import Facts, explain
from otelbudget.config import Config, load_budget_config
from otelbudget.errors import ConfigError

FILE = """
budgets:
  quick: {max_steps: 5, max_seconds: 10, max_depth: 1}
  deep: {max_tokens: 9k, max_cost_usd: $1, wrap_up: {tokens: 1k}, on_unpriced: estimate}
  watched: {max_tokens: 7, on_exhausted: warn}
default_budget: quick
agents: {researcher: deep, watcher: watched}
tenants: {acme: {org: globex}}
quotas:
  org: [{cost_usd: $500, per: month, timezone: Europe/Berlin, at: 06:00}]
  default:
    - {tokens: 1000, per: day, reserve_for: {high: 20%, normal: 10%}}
    - {steps: 9, per: rolling 1h, on_exhausted: warn, name: bursts}
  tenants: {"acme*": [{tokens: 50, per: lifetime}], internal: []}
  users: {"*": [{tool_calls: 3, per: run}]}
  models: {"demo-*": [{output_tokens: 8, per: week}]}
prices: {demo-small: {input: $0.15, output: $0.60}, "in-*": {input: $2, per: 1k}}
"""
#: 2026-11-24 12:00 UTC, a Tuesday.
NOW_S = datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp()
Ask = Callable[..., Facts]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.chdir(tmp_path)
    Path("b.yaml").write_text(FILE)
    return load_budget_config("b.yaml")


@pytest.fixture
def ask(config: Config) -> Ask:
    return lambda **call: explain(config, call, NOW_S)


def test_all_limits_of_a_call_are_found_widest_scope_first(ask: Ask) -> None:
    found = ask(tenant="acme", user="u1", agent="researcher", model="demo-small")
    assert (found["org"], found["tenant"], found["refused"]) == ("globex", "acme", None)
    assert [(one["scope"], one["of"], one["setting"], one["origin"]) for one in found["limits"]] == [
        ("org", "globex", "quotas.org", "b.yaml:10"),
        ("tenant", "acme", "quotas.tenants.'acme*'", "b.yaml:14"),
        ("user", "u1 of acme", "quotas.users.'*'", "b.yaml:15"),
        ("model", "demo-* in globex", "quotas.models.'demo-*'", "b.yaml:16"),
        ("run", "deep", "agents.researcher", "b.yaml:4"),
    ]
    assert [dict(one["limits"]) for one in found["limits"]] == [
        {"cost_usd": 500},
        {"tokens": 50},
        {"tool_calls": 3},
        {"output_tokens": 8},
        {"tokens": 9_000, "cost_usd": 1},
    ]
    assert found["limits"][-1]["set_aside"] == {"tokens": 1_000}


def test_agents_conversations_and_tags_have_limits_of_their_own(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("b.yaml").write_text(
        "quotas:\n  agents: {'re*': [{steps: 1}], quiet: []}\n  conversations: {'*': [{steps: 2}]}\n"
        "  tags:\n    team:\n      search: [{steps: 3}]\n      'x-*': [{steps: 4}]\n    stage: {prod: [{steps: 5}]}\n"
    )
    config = load_budget_config("b.yaml")
    tags = {"team": "x-ray", "stage": "prod", "other": "1"}
    found = explain(
        config, {"tenant": "acme", "org": "o", "agent": "reader", "conversation": "c1", "tags": tags}, NOW_S
    )
    assert [
        (one["scope"], one["of"], one["setting"], one["origin"], one["limits"]["steps"]) for one in found["limits"]
    ] == [
        ("agent", "reader of acme", "quotas.agents.'re*'", "b.yaml:2", 1),
        ("conversation", "c1 of acme", "quotas.conversations.'*'", "b.yaml:3", 2),
        ("tag", "team=x-ray in o", "quotas.tags.team.'x-*'", "b.yaml:7", 4),
        ("tag", "stage=prod in o", "quotas.tags.stage.prod", "b.yaml:8", 5),
    ]
    assert "quotas.tags says nothing of this tag" in found["notes"]
    notes = explain(config, {"agent": "quiet"}, NOW_S)["notes"]
    assert "quotas.agents.quiet allows everything (b.yaml:2)" in notes
    assert "no conversation is named, so quotas.conversations is not looked at" in notes
    assert "no tag is named, so quotas.tags is not looked at" in notes


def test_windows_and_their_next_ends_are_told(ask: Ask) -> None:
    windows = {
        one["scope"]: (one["window"], one["resets_at"])
        for one in ask(tenant="acme", user="u", model="demo-x")["limits"]
    }
    month_ends = datetime(2026, 12, 1, 5, tzinfo=UTC)
    assert windows["org"] == ("per month from 06:00 Europe/Berlin", month_ends)
    assert windows["org"][1].utcoffset().total_seconds() == 3_600
    assert windows["tenant"] == ("for ever", None)
    assert windows["user"] == ("per run", None)
    assert windows["model"] == ("per week", datetime(2026, 11, 30, tzinfo=UTC))
    assert ask()["limits"][2]["window"] == "per rolling 1h"


@pytest.mark.parametrize(("priority", "usable"), [("low", 700), ("normal", 800), ("high", 1_000)])
def test_what_is_kept_for_others_is_not_usable(ask: Ask, priority: str, usable: int) -> None:
    quota = ask(tenant="foo", priority=priority)["limits"][1]
    assert (quota["limits"], quota["usable"]) == ({"tokens": 1_000}, {"tokens": usable})


def test_what_only_warns_refuses_nothing(ask: Ask) -> None:
    found = ask(tenant="foo", agent="watcher")
    assert {one["name"]: one["refuses"] for one in found["limits"] if one["scope"] != "org"} == {
        "tokens per day": True,
        "bursts": False,
        "watched": False,
    }
    assert "steps" in found["unlimited"]
    assert "tokens" not in found["unlimited"]


@pytest.mark.parametrize(
    ("call", "of", "setting"),
    [
        ({}, "quick", "default_budget"),
        ({"agent": "unheard"}, "quick", "default_budget"),
        ({"agent": "researcher"}, "deep", "agents.researcher"),
        ({"agent": "researcher", "budget": "watched"}, "watched", "budgets.watched"),
    ],
)
def test_the_budget_is_the_one_asked_for_else_the_agents_else_the_default(
    ask: Ask, call: dict[str, str], of: str, setting: str
) -> None:
    run = ask(**call)["limits"][-1]
    assert (run["scope"], run["of"], run["setting"]) == ("run", of, setting)


def test_an_unknown_budget_is_an_error(ask: Ask) -> None:
    with pytest.raises(ConfigError, match=r"no budget is named 'quik' in b\.yaml; did you mean 'quick'"):
        ask(budget="quik")


def test_what_does_not_limit_says_why(ask: Ask) -> None:
    assert ask(tenant="internal", agent="unheard")["notes"] == [
        "quotas.tenants.internal allows everything (b.yaml:14)",
        "quotas.agents says nothing of this agent",
        "no user is named, so quotas.users is not looked at",
        "no model is named, so quotas.models is not looked at",
        "quotas.default is not for tenant internal, which quotas.tenants.internal means",
        "agents says nothing of unheard",
    ]
    assert "quotas.models says nothing of this model" in ask(model="other")["notes"]
    assert ask()["unlimited"] == ["input_tokens", "output_tokens", "tool_calls", "nested_tool_calls"]


def test_a_configuration_without_limits_limits_nothing() -> None:
    found = explain(Config(), {"user": "u", "model": "m"}, NOW_S)
    assert found["limits"] == []
    assert {"steps", "tokens", "cost_usd", "seconds", "depth"} <= set(found["unlimited"])
    assert "there is no default_budget, so a run on its own is not limited" in found["notes"]


def test_the_organisation_given_wins_over_the_tenants(ask: Ask) -> None:
    assert ask(tenant="acme", org="other")["org"] == "other"
    assert ask(tenant="foo")["org"] == "default"


def test_a_call_without_a_tenant_may_be_refused(tmp_path: Path) -> None:
    path = tmp_path / "b.yaml"
    path.write_text("require_tenant: true\n")
    config = load_budget_config(path)
    refused = explain(config, {}, NOW_S)["refused"]
    assert refused == f"it names no tenant, and require_tenant is set ({path}:1)"
    assert explain(config, {"tenant": "a"}, NOW_S)["refused"] is None
