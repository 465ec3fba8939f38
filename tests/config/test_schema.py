"""The schema for editors and the loader take the same files; what only the loader can know is a short list."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from documents import NotJson, as_json
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mutations import VALUES, files

import otelbudget.config
from otelbudget.config import Config
from otelbudget.config.fields import FILE
from otelbudget.config.loader import parse
from otelbudget.config.nodes import compose
from otelbudget.config.schema import BEYOND, schema, schema_text
from otelbudget.errors import ConfigError, Problem

ROOT = Path(__file__).parents[2]
SHIPPED = Path(otelbudget.config.__file__).with_name("budgets.schema.json")
VALIDATOR = jsonschema.Draft7Validator(json.loads(SHIPPED.read_text("utf-8")))
VARIABLES = {"A": "7"}
PLACE = re.compile(r"b\.yaml:\d+:\d+: .")

#: How the loader says each of BEYOND, in its order.
SAID = (
    r"is called .* too; give one of them a name$",
    r"is not the name of a budget|a budget or the name of one, got '",
    r"no such zone is known here",
    r"\$[{$]|environment variable",
    r"reserve_for keeps more than|wrap_up sets .* more than",
    r"got '[^']*[0-9.][eE][+-]?[0-9]|it must be below|not a whole number$|must be a port from|must be a time from|"
    r"got 'rolling [0-9]+[smhd]'$",
    r"or null for no limit, got nothing$",
    r"leading zero|in decimal$|got '[+-]?[0-9.]+\.'|got '-[0.]+|not a finite|longer than 30",
    r"more than 100,000 values|more than 4,096 characters|merged one into the other",
    r"and would be a limit of 0",
    r"takes the dearest of `prices`",
)


def refusal(text: str) -> tuple[Problem, ...]:
    """What the loader says is wrong; nothing, if it takes the file."""
    try:
        assert isinstance(parse(text.encode("utf-8", "surrogatepass"), "b.yaml", VARIABLES), Config)
    except ConfigError as error:
        places, problems = [PLACE.match(line) for line in str(error).splitlines()], error.problems
    else:
        return ()
    assert problems
    assert all(places), problems
    return problems


def differ(text: str) -> str | None:
    """How schema and loader disagree on *text*, beyond what is known; None if they don't."""
    problems = refusal(text)
    try:
        document = as_json(compose(text, "b.yaml"))
    except (ConfigError, NotJson):
        return None if problems else f"the loader takes what is no document: {text!r}"
    wrong = [f"{list(error.path)}: {error.message[:200]}" for error in VALIDATOR.iter_errors(document)]
    if not problems:
        return f"only the schema refuses {text!r}: {wrong}" if wrong else None
    known = [any(re.search(said, problem.message) for said in SAID) for problem in problems]
    return None if wrong or all(known) else f"only the loader refuses {text!r}: {problems}"


def test_the_shipped_file_is_what_the_table_of_fields_says() -> None:
    assert SHIPPED.read_text("utf-8") == schema_text(), (
        "write it anew: otelbudget schema --output otelbudget/config/budgets.schema.json"
    )


def test_it_is_a_draft_07_schema_and_the_reference_file_is_valid() -> None:
    jsonschema.Draft7Validator.check_schema(schema())
    whole = compose((ROOT / "budgets.yaml").read_text("utf-8"), "budgets.yaml")
    VALIDATOR.validate(as_json(whole))


def test_every_setting_tells_an_editor_what_it_is_for() -> None:
    def silent(part: Any, path: str) -> list[str]:
        if isinstance(part, list):
            return [name for item in part for name in silent(item, path)]
        if not isinstance(part, dict):
            return []
        here = [
            f"{path}.{n}" for n, s in part.get("properties", {}).items() if not s.get("description", "").endswith(".")
        ]
        rules = ("if", "then", "not")
        return here + [n for k, v in part.items() if k not in rules for n in silent(v, f"{path}.{k}")]

    described = schema()
    for part in described["definitions"].values():
        part.pop("allOf", None)
    described["properties"]["tenant_from"].pop("allOf")
    assert silent(described, "") == []


def test_what_only_the_loader_knows_is_in_the_schema_for_its_readers() -> None:
    assert len(BEYOND) == len(SAID)
    assert all(one in schema()["$comment"] for one in BEYOND)


#: A document per form of text, with a place for it.
PLACES = {
    "count, nullable": "budgets: {{a: {{max_steps: {}}}}}",
    "count": "quotas: {{org: [{{steps: {}}}]}}",
    "positive count": "estimates: {{output_tokens: {}}}",
    "port": "telemetry: {{metrics_port: {}}}",
    "money, nullable": "budgets: {{a: {{max_cost_usd: {}}}}}",
    "money": "prices: {{m: {{input: {}}}}}",
    "seconds, nullable": "budgets: {{a: {{max_seconds: {}}}}}",
    "seconds": "budgets: {{a: {{wrap_up: {{seconds: {}}}}}}}",
    "ratio": "prices: {{m: {{input: 1, discount: {}}}}}",
    "share": "quotas: {{org: [{{steps: 1, reserve_for: {{high: {}}}}}]}}",
    "threshold": "budgets: {{a: {{thresholds: [{}]}}}}",
    "flag": "require_tenant: {}",
    "window": "quotas: {{org: [{{steps: 1, per: {}}}]}}",
    "window of a model": "quotas: {{models: {{m: [{{steps: 1, per: {}}}]}}}}",
    "window of a time of day": "quotas: {{org: [{{steps: 1, at: '06:00', per: {}}}]}}",
    "window of a zone": "quotas: {{org: [{{steps: 1, timezone: Europe/Berlin, per: {}}}]}}",
    "time of day": "quotas: {{org: [{{steps: 1, at: {}}}]}}",
    "time of day of an hour": "quotas: {{org: [{{steps: 1, per: hour, at: {}}}]}}",
    "zone": "quotas: {{org: [{{steps: 1, timezone: {}}}]}}",
    "zone of a run": "quotas: {{org: [{{steps: 1, per: run, timezone: {}}}]}}",
    "name": "tenants: {{a: {{org: {}}}}}",
    "name of a quota": "quotas: {{org: [{{steps: 1, name: {}}}]}}",
    "key": "budgets: {{{}: {{max_steps: 1}}}}",
    "exact key": "tenants: {{{}: {{org: a}}}}",
    "word": "on_unpriced: {}",
    "word of a budget": "budgets: {{a: {{on_exhausted: {}}}}}",
    "reference": "default_budget: {}",
    "section": "estimates: {}",
    "store": "store: {}",
    "address": "store: {{url: {}}}",
    "timeout": "store: {{timeout: {}}}",
    "ttl": "store: {{ttl: {}}}",
    "tag": "quotas: {{tags: {{{}: {{}}}}}}",
    "value of a tag": "quotas: {{tags: {{team: {{{}: []}}}}}}",
    "agent": "quotas: {{agents: {{{}: []}}}}",
    "names": "budgets: {}",
    "list": "quotas: {{default: {}}}",
    "list of names": "quotas: {{tenants: {}}}",
    "item": "quotas: {{users: {{a: [{}]}}}}",
    "whole": "{}",
}


@pytest.mark.parametrize("place", PLACES)
def test_loader_and_schema_take_the_same_values(place: str) -> None:
    written = [*VALUES, *(json.dumps(value) for value in VALUES), "[]", "{}", "[1]", "{a: 1}"]
    found = [differ(PLACES[place].format(value)) for value in written]
    assert [difference for difference in found if difference] == []


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("budgets: {a: {wrap_up: {tokens: 5}}}", False),
        ("budgets: {a: {max_tokens: null, wrap_up: {tokens: 5}}}", False),
        ("budgets: {a: {max_tokens: 9, wrap_up: {tokens: 5}}}", True),
        ("budgets: {a: {wrap_up: {seconds: 5}}}", True),
        ("agents: {a: {wrap_up: {cost_usd: 5}}}", False),
        ("quotas: {org: [{per: day}]}", False),
        ("quotas: {org: [{cost_usd: $5}]}", True),
        ("quotas: {org: {steps: 5}}", False),
        ("quotas: {org: [{steps: 5, per: run}]}", True),
        ("quotas: {models: {m: [{steps: 5, per: run}]}}", False),
        ("quotas: {org: [{steps: 5, at: 06:00, per: '${A:-day}'}]}", True),
        ("quotas: {org: [{steps: 5, seconds: 5}]}", False),
        ("quotas: {org: [{steps: 5, reserve_for: {urgent: 5%}}]}", False),
        ("tenants: {a: {}}", False),
        ("tenants: {'a*': {org: b}}", False),
        ("tenant_from: {}", False),
        ("tenant_from: {baggage: tenant}", True),
        ("prices: {m: {output: 5}}", False),
        ("budgets: {<<: {a: {max_steps: 1}}}", True),
        ("store: {url: x}", False),
        ("store: {url: redis://x}", True),
        ("store: redis+x://x", False),
        ("store: memory", True),
        ("store: sqlite:///a.db", True),
        ("store: 'sqlite:///:memory:'", False),
        ("store: {url: sqlite:////var/a.db, timeout: 250ms, ttl: 2m}", True),
        ("store: {timeout: 61}", False),
        ("store: {ttl: 0.5}", False),
        ("store: {lease: 1%}", False),
        ("quotas: {agents: {a: [{steps: 5, per: run}]}}", False),
        ("quotas: {conversations: {'*': [{steps: 5, per: run}]}}", False),
        ("quotas: {tags: {team: {search: [{steps: 5, per: run}]}}}", False),
        ("quotas: {tags: {team: {'se*': [{steps: 5}]}}}", True),
        ("quotas: {tags: {'te*': {search: [{steps: 5}]}}}", False),
        ("quotas: {tags: {team: [{steps: 5}]}}", False),
    ],
)
def test_what_has_to_hold_between_settings_is_in_the_schema(text: str, valid: bool) -> None:
    assert differ(text) is None
    assert VALIDATOR.is_valid(as_json(compose(text, "b.yaml"))) is valid


@pytest.mark.slow
def test_a_corpus_of_mutated_files_is_read_or_refused_with_places_and_the_schema_agrees() -> None:
    corpus = list(files(seed=20_261_124, number=2_500))
    assert [difference for text in corpus if (difference := differ(text))] == []


def test_the_corpus_is_neither_too_mild_nor_too_wild() -> None:
    corpus = list(files(seed=20_261_124, number=500))
    assert corpus == list(files(seed=20_261_124, number=500))
    outcomes = [not refusal(text) for text in corpus]
    assert min(outcomes.count(True), outcomes.count(False)) > 70


DIGITS = st.text("0123456789_.", max_size=20)
AMOUNTS = st.tuples(
    st.sampled_from(["", "", "+", "-", "$", "$ "]),
    DIGITS | st.integers(0, 2**60).map(str),
    st.sampled_from(["", "", ".", ".5", ".000", ".123456789", "e3", "E-2"]),
    st.sampled_from(
        ["", "", "k", "K", "M", "B", " k", "%", " %", "ms", "s", "m", "h", "d", " d 3h", "h30m", " USD", "x"]
    ),
).map("".join)
PARSED = ("max_steps", "max_cost_usd", "max_seconds", "thresholds")


@settings(max_examples=400, deadline=None)
@given(AMOUNTS, st.sampled_from(PARSED))
@example("9007199254740.991k", "max_steps")
@example("149759.99999m", "max_seconds")
def test_loader_and_schema_take_the_same_amounts(amount: str, setting: str) -> None:
    value = json.dumps(amount)
    text = f"budgets: {{a: {{{setting}: {f'[{value}]' if setting == 'thresholds' else value}}}}}"
    assert differ(text) is None


def test_settings_that_the_table_does_not_know_are_not_in_the_schema() -> None:
    assert set(schema()["properties"]) == set(FILE.fields)
    assert schema()["additionalProperties"] is False
