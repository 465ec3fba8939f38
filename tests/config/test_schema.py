"""Whatever the loader takes, the schema for editors takes too; and it finds what an editor can find."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
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
from otelbudget.config.fields import FILE, schema, schema_text
from otelbudget.config.loader import parse
from otelbudget.config.nodes import compose
from otelbudget.errors import ConfigError, Problem

ROOT = Path(__file__).parents[2]
SHIPPED = Path(otelbudget.config.__file__).with_name("budgets.schema.json")
VALIDATOR = jsonschema.Draft7Validator(json.loads(SHIPPED.read_text("utf-8")))
PLACE = re.compile(r"b\.yaml:\d+:\d+: .")


@pytest.fixture(scope="module", autouse=True)
def variable() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("A", "7")
        yield


def refusal(text: str) -> tuple[Problem, ...]:
    """What the loader says is wrong; nothing, if it takes the file."""
    try:
        assert isinstance(parse(text.encode("utf-8", "surrogatepass"), "b.yaml"), Config)
    except ConfigError as error:
        places, problems = [PLACE.match(line) for line in str(error).splitlines()], error.problems
    else:
        return ()
    assert problems
    assert all(places), problems
    return problems


def differ(text: str) -> str | None:
    """What the schema has against a *text* that the loader takes; None if that is nothing."""
    problems = refusal(text)
    try:
        document = as_json(compose(text, "b.yaml"))
    except (ConfigError, NotJson):
        return None if problems else f"the loader takes what is no document: {text!r}"
    wrong = [f"{list(error.path)}: {error.message[:200]}" for error in VALIDATOR.iter_errors(document)]
    return f"only the schema refuses {text!r}: {wrong}" if wrong and not problems else None


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
        return here + [n for k, v in part.items() for n in silent(v, f"{path}.{k}")]

    described = schema()
    assert silent(described, "") == []


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
def test_the_schema_takes_every_value_that_the_loader_takes(place: str) -> None:
    written = [*VALUES, *(json.dumps(value) for value in VALUES), "[]", "{}", "[1]", "{a: 1}"]
    found = [differ(PLACES[place].format(value)) for value in written]
    assert [difference for difference in found if difference] == []


@pytest.mark.parametrize(
    "text",
    [
        "budgets: {a: {max_stepz: 5}}",
        "budgets: {a: {max_steps: -5}}",
        "budgets: {a: {max_steps: 5min}}",
        "budgets: {a: {on_exhausted: stop}}",
        "budgets: [a]",
        "quotas: {org: {steps: 5}}",
        "quotas: {org: [{steps: 5, per: daily}]}",
        "quotas: {org: [{steps: 5, seconds: 5}]}",
        "quotas: {org: [{steps: 5, reserve_for: {urgent: 5%}}]}",
        "quotas: {tags: {team: [{steps: 5}]}}",
        "tenants: {a: {}}",
        "prices: {m: {output: 5}}",
        "prices: {m: {input: 5, discount: 10}}",
        "store: redis+x://x",
        "store: {colour: red}",
        "require_tenant: 1",
    ],
)
def test_an_editor_finds_what_is_misspelt_missing_or_of_a_wrong_kind(text: str) -> None:
    assert refusal(text)
    assert not VALIDATOR.is_valid(as_json(compose(text, "b.yaml")))


@pytest.mark.slow
def test_a_corpus_of_mutated_files_is_read_or_refused_with_places_and_the_schema_agrees() -> None:
    corpus = list(files(seed=20_261_124, number=2_500))
    assert [difference for text in corpus if (difference := differ(text))] == []


def test_the_corpus_is_neither_too_mild_nor_too_wild() -> None:
    corpus = list(files(seed=20_261_124, number=500))
    assert corpus == list(files(seed=20_261_124, number=500))
    outcomes = [not refusal(text) for text in corpus]
    assert min(outcomes.count(True), outcomes.count(False)) > 50


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


@settings(max_examples=400)
@given(AMOUNTS, st.sampled_from(PARSED))
@example("9007199254740.991k", "max_steps")
@example("149759.99999m", "max_seconds")
def test_the_schema_takes_every_amount_that_the_loader_takes(amount: str, setting: str) -> None:
    value = json.dumps(amount)
    text = f"budgets: {{a: {{{setting}: {f'[{value}]' if setting == 'thresholds' else value}}}}}"
    assert differ(text) is None


def test_settings_that_the_table_does_not_know_are_not_in_the_schema() -> None:
    assert set(schema()["properties"]) == set(FILE.fields)
    assert schema()["additionalProperties"] is False
