"""Quotas, tenants and how runs learn theirs are read from a file as strictly as budgets are."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from otelbudget.config import Config, Estimates, TelemetryConfig, TenantFrom, load_budget_config
from otelbudget.config.fields import FILE
from otelbudget.config.kinds import Section
from otelbudget.errors import ConfigError, Problem
from otelbudget.model.budget import RunBudget
from otelbudget.model.quota import Quota, Quotas

ROOT = Path(__file__).parents[2]
Read = Callable[..., Config]
Refuse = Callable[..., list[str]]

WHOLE = """
tenants:
  no: {org: globex}
  7: {org: 5}
require_tenant: true
tenant_from: {span_attribute: tenant.id, baggage: tenant}
trust_reported_cost: true
quotas:
  org:
    - {cost_usd: $500, per: month}
  default:
    - tokens: 1M
      input_tokens: 900k
      per: day
      timezone: Europe/Berlin
      at: 06:00
      thresholds: [50%]
      reserve_for: {high: 20%, normal: 0.1}
    - {steps: 10, per: rolling 1h, on_exhausted: warn, name: spikes}
  tenants:
    acme: &acme
      - {output_tokens: 1k, tool_calls: 5, nested_tool_calls: 2, per: week, at: "23:30"}
    "globex-*": *acme
    internal: []
  users: {"*": [{tokens: "${TOKENS}", per: run}]}
  models: {demo-large: [{cost_usd: 1, per: lifetime}]}
  agents: {"search-*": [{steps: 5}]}
  conversations: {"*": [{cost_usd: $2, per: lifetime}]}
  tags:
    team: {search: [{tokens: 5k}], "x-*": []}
"""


@pytest.fixture
def whole(read: Read) -> Config:
    return read(WHOLE, TOKENS="3k")


def test_every_setting_of_quotas_is_read(whole: Config) -> None:
    acme = (Quota(output_tokens=1_000, tool_calls=5, nested_tool_calls=2, per="week", at="23:30"),)
    assert whole.quotas == Quotas(
        org=(Quota(cost_usd=Decimal(500), per="month"),),
        default=(
            Quota(
                tokens=1_000_000,
                input_tokens=900_000,
                per="day",
                timezone="Europe/Berlin",
                at="06:00",
                thresholds=(0.5,),
                reserve_for={"high": 0.2, "normal": 0.1},
            ),
            Quota(steps=10, per="rolling 1h", on_exhausted="warn", name="spikes"),
        ),
        tenants={"acme": acme, "globex-*": acme, "internal": ()},
        users={"*": (Quota(tokens=3_000, per="run"),)},
        models={"demo-large": (Quota(cost_usd=1, per="lifetime"),)},
        agents={"search-*": (Quota(steps=5),)},
        conversations={"*": (Quota(cost_usd=2, per="lifetime"),)},
        tags={"team": {"search": (Quota(tokens=5_000),), "x-*": ()}},
    )


def test_whose_tenant_is_whose_is_read_and_names_stay_texts(whole: Config) -> None:
    assert dict(whole.tenants) == {"no": "globex", "7": "5"}
    assert (whole.require_tenant, whole.trust_reported_cost) == (True, True)
    assert whole.tenant_from == TenantFrom(span_attribute="tenant.id", baggage="tenant")


def test_what_is_left_out_is_not_there(read: Read) -> None:
    config = read("budgets: {}\nquotas:\ntenants:\n")
    assert config == Config()
    assert not config.quotas
    assert (config.require_tenant, config.trust_reported_cost, config.tenant_from) == (False, False, None)


def test_estimates_and_events_are_read(read: Read) -> None:
    config = read(
        "estimates: {output_tokens: 1k, hold: expected, clamp: true, min_output_tokens: 8}\ntelemetry: {events: both}\n"
    )
    assert config.estimates == Estimates(output_tokens=1_000, hold="expected", clamp=True, min_output_tokens=8)
    assert config.telemetry == TelemetryConfig(events="both")


@pytest.mark.parametrize("written", ["06:00", "'06:00'", '"06:00"'])
def test_a_time_of_day_needs_no_quotes(read: Read, written: str) -> None:
    assert read(f"quotas: {{org: [{{tokens: 5, at: {written}}}]}}").quotas.org[0].at == "06:00"


def test_everything_knows_the_line_that_it_was_written_in(whole: Config) -> None:
    assert whole.quotas.org[0].origin == "b.yaml:10"
    assert [quota.origin for quota in whole.quotas.default] == ["b.yaml:12", "b.yaml:19"]
    assert whole.quotas.tenants["globex-*"][0].origin == "b.yaml:22", "where the alias leads"
    assert whole.quotas.found("tags", "team", "search")[1][0].origin == "b.yaml:30"
    assert whole.origin("quotas", "tags", "team", "x-*") == "b.yaml:30"
    assert whole.origin("quotas", "default", "0", "per") == "b.yaml:14"
    assert whole.origin("quotas", "tenants", "globex-*") == "b.yaml:23"
    assert whole.origin("tenants", "no", "org") == "b.yaml:3"
    assert whole.origin("quotas", "tenants", "nobody") is None
    assert whole.origin() is None


def test_budgets_know_the_line_that_they_were_written_in(read: Read) -> None:
    config = read(
        "budgets:\n  base: &base\n    max_steps: 5\n  more: {max_steps: 5}\n"
        "default_budget: {max_steps: 1}\nagents:\n  a: base\n  b:\n    max_steps: 2\n"
    )
    assert config["base"].origin == config.agents["a"].origin == "b.yaml:2"
    assert config["more"].origin == "b.yaml:4"
    assert config.origin("budgets", "base", "max_steps") == "b.yaml:3"
    assert config.default_budget is not None
    assert config.default_budget.origin == "b.yaml:5"
    assert config.agents["b"].origin == "b.yaml:8"


def test_where_something_was_written_makes_no_difference(read: Read) -> None:
    first, second = read("budgets: {a: {max_steps: 1}}"), read("\n\nbudgets: {a: {max_steps: 1}}")
    assert first == second
    assert first.origin("budgets", "a") != second.origin("budgets", "a")
    assert first["a"] == RunBudget(max_steps=1, name="a")
    assert RunBudget(max_steps=1).origin is Config().origin("budgets") is None


def test_places_are_kept_by_pickle_and_copy(whole: Config) -> None:
    for twin in (pickle.loads(pickle.dumps(whole)), copy.copy(whole), copy.deepcopy(whole)):
        assert twin == whole
        assert twin.origin("quotas", "org", "0") == twin.quotas.org[0].origin == "b.yaml:10"
    budget = RunBudget(max_steps=1, origin="b.yaml:3")
    assert pickle.loads(pickle.dumps(budget)).origin == replace(budget, name="b").origin == "b.yaml:3"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tenants: {'a*': {org: b}}", "1:11: tenants.'a*': patterns are not understood here; name each one"),
        ("tenants: {a: b}", "1:14: tenants.a: must be a mapping, got 'b'"),
        ("tenants: {a: {}}", "1:14: tenants.a: org is missing"),
        ("tenants: {a: {org: ''}}", "1:20: tenants.a.org: must be a name of 1 to 200 printable characters, got ''"),
        ("tenants: {a: {org: null}}", "1:20: tenants.a.org: must be a name of 1 to 200 printable characters"),
        ("require_tenant: 1", "1:17: require_tenant: must be true or false, got '1'"),
        ("trust_reported_cost: yes", "1:22: trust_reported_cost: must be true or false, got 'yes'; write true"),
        ("tenant_from: {}", "1:14: tenant_from: tenant_from needs span_attribute, baggage or both"),
        ("tenant_from: {header: x}", "1:15: tenant_from.header: unknown setting; known are span_attribute, baggage"),
        ("quotas: {user: {}}", "1:10: quotas.user: unknown setting; did you mean 'users'?"),
        ("quotas: {org: {tokens: 5}}", "1:15: quotas.org: must be a list of quotas, such as [{tokens: 1M, per: day}]"),
        ("quotas: {org: {tokens: 5}}", "per: day}], got a mapping"),
        ("quotas: {tenants: {a: {tokens: 5}}}", "1:23: quotas.tenants.a: must be a list of quotas, such as"),
        ("quotas: {default: }", "quotas.default: must be a list of quotas, such as [{tokens: 1M, per: day}], got no"),
        ("quotas: {org: [{per: day}]}", "1:16: quotas.org.0: a quota limits something: give one of steps, tokens,"),
        ("quotas: {org: [{seconds: 5}]}", "1:17: quotas.org.0.seconds: unknown setting"),
        ("quotas: {org: [{token: 5}]}", "1:17: quotas.org.0.token: unknown setting; did you mean 'tokens'?"),
        ("quotas: {org: [{tokens: null}]}", "1:25: quotas.org.0.tokens: must be a whole number such as 5, 50k or 1.5M"),
        (
            "quotas: {org: [{tokens: 5, per: daily}]}",
            "1:33: quotas.org.0.per: per must be run, lifetime, minute, ",
        ),
        ("quotas: {org: [{tokens: 5, per: rolling 9x}]}", "month or 'rolling 24h' (1s to 366d), got 'rolling 9x'"),
        (
            "quotas: {org: [{tokens: 5, at: 6:00}]}",
            "1:32: quotas.org.0.at: at must be a time of day such as '06:00', got",
        ),
        ("quotas: {org: [{tokens: 5, at: 24:00}]}", "a time of day such as '06:00', got '24:00'"),
        ("quotas: {org: [{tokens: 5, per: hour, at: 06:00}]}", "1:43: quotas.org.0.at: at goes with per day, week or"),
        (
            "quotas: {org: [{tokens: 5, timezone: Berlin}]}",
            "'UTC', got 'Berlin'; if that name is right, `pip",
        ),
        ("quotas: {org: [{tokens: 5, timezone: ../x}]}", "1:38: quotas.org.0.timezone: timezone must be an IANA name"),
        ("quotas: {org: [{tokens: 5, per: run, timezone: Europe/Rome}]}", "1:48: quotas.org.0.timezone: timezone goes"),
        ("quotas: {org: [{tokens: 5, reserve_for: {urgent: 5%}}]}", "1:42: quotas.org.0.reserve_for.urgent: unknown"),
        (
            "quotas: {org: [{tokens: 5, reserve_for: {high: 60%, low: 50%}}]}",
            "1:41: quotas.org.0.reserve_for: reserve_for keeps more than the whole quota",
        ),
        (
            "quotas:\n  org:\n    - {tokens: 5}\n    - {tokens: 9}\n",
            "4:7: quotas.org.1: a quota before it is called 'tokens per day' too; give it a name of its own",
        ),
        ("quotas: {org: [{tokens: 5, on_exhausted: stop}]}", "1:42: quotas.org.0.on_exhausted: must be raise or warn"),
        ("quotas: {org: [{tokens: 5, name: ''}]}", "1:34: quotas.org.0.name: must be a name of 1 to 200"),
        (
            "quotas: {models: {m: [{tokens: 5, per: run}]}}",
            "1:22: quotas.models.m: a quota per run binds root runs, and here",
        ),
        (
            "quotas: {agents: {a: [{steps: 5, per: run}]}}",
            "quotas.agents.a: a quota per run binds root runs, and here it is calls",
        ),
        (
            "quotas: {conversations: {c: [{steps: 5, per: run}]}}",
            "quotas.conversations.c: a quota per run binds root runs, and here",
        ),
        (
            "quotas: {tags: {team: {a: [{steps: 5, per: run}]}}}",
            "1:27: quotas.tags.team.a: a quota per run binds root runs",
        ),
        (
            "quotas: {tags: {'te*': {a: []}}}",
            "1:17: quotas.tags.'te*': patterns are not understood here; name each one",
        ),
        ("quotas: {tags: {team: [{steps: 5}]}}", "1:23: quotas.tags.team: must be a mapping, got a list"),
        ("quotas: {tags: {team: {search: {steps: 5}}}}", "quotas.tags.team.search: must be a list of quotas, such as"),
        (
            "quotas: {tags: {team: {search: [{step: 5}]}}}",
            "quotas.tags.team.search.0.step: unknown setting; did you mean",
        ),
        ("quotas: {agent: {a: []}}", "1:10: quotas.agent: unknown setting; did you mean 'agents'?"),
        ("quotas: {conversation: {a: []}}", "quotas.conversation: unknown setting; did you mean 'conversations'?"),
    ],
)
def test_each_mistake_has_a_message_with_its_place(refuse: Refuse, text: str, says: str) -> None:
    (line,) = refuse(text)
    assert says in line
    assert line.startswith("b.yaml:")


def test_a_machine_without_zone_files_is_told_what_to_install(refuse: Refuse, no_zone_files: None) -> None:
    (line,) = refuse("quotas: {org: [{tokens: 5, timezone: Europe/Berlin}]}")
    assert line.endswith("`pip install tzdata` brings all of them")


def test_what_is_wrong_can_be_read_by_programs(read: Read) -> None:
    with pytest.raises(ConfigError) as refused:
        read("budgets:\n  'odd name':\n    max_stepz: 5\nquotas: 5\n")
    wanted = (
        Problem("b.yaml", 3, 5, "budgets.'odd name'.max_stepz", "unknown setting; did you mean 'max_steps'?"),
        Problem("b.yaml", 4, 9, "quotas", "must be a mapping, got '5'"),
    )
    for error in (refused.value, pickle.loads(pickle.dumps(refused.value)), copy.deepcopy(refused.value)):
        assert error.problems == wanted
        assert str(error).splitlines() == list(map(str, wanted))


def test_every_problem_is_there_for_programs_also_where_the_message_is_cut(read: Read) -> None:
    with pytest.raises(ConfigError) as refused:
        read("".join(f"x{i}: 1\n" for i in range(200)))
    assert len(refused.value.problems) == 200
    assert len(str(refused.value).splitlines()) == 51


def test_a_file_that_can_not_be_read_is_a_problem_without_a_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        load_budget_config(tmp_path)
    assert refused.value.problems == (Problem(str(tmp_path), None, None, "", "can't be read: Is a directory"),)


def settings(kind: object, path: str = "") -> list[tuple[str, str]]:
    """(path, name) of every setting that a file may hold."""
    found: list[tuple[str, str]] = []
    if isinstance(kind, Section):
        for name, field in kind.fields.items():
            found += [(f"{path}.{name}", name), *settings(field.kind, f"{path}.{name}")]
    for inner in ("item", "budget"):
        if hasattr(kind, inner):
            found += settings(getattr(kind, inner), path)
    return found


def test_the_reference_file_shows_every_setting() -> None:
    text = (ROOT / "budgets.yaml").read_text("utf-8")
    missing = {path for path, name in settings(FILE) if not re.search(rf"(?<![\w-]){name}:", text)}
    assert missing == set()
