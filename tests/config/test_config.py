"""A configuration is a frozen mapping of budgets that can be made in code, compared and pickled."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from otelbudget.config import Config, Estimates, TelemetryConfig, TenantFrom
from otelbudget.errors import ConfigError
from otelbudget.model.budget import RunBudget
from otelbudget.pricing import Price, Prices

QUICK = RunBudget(max_steps=5)
ESTIMATING = RunBudget(on_unpriced="estimate")
DEEP = RunBudget(max_steps=50, max_cost_usd=0.5, wrap_up={"steps": 2})


def full() -> Config:
    return Config(
        {"quick": QUICK, "deep": DEEP},
        default_budget="quick",
        agents={"researcher": "deep", "helper": RunBudget(max_steps=1)},
        prices={"demo-*": Price(input=1)},
        estimates=Estimates(output_tokens=100),
        telemetry=TelemetryConfig(max_tenants=10, metrics_port=0),
        on_unpriced="allow",
        source="budgets.yaml",
    )


def test_it_is_a_mapping_of_budgets_by_name() -> None:
    config = full()
    assert list(config) == ["quick", "deep"]
    assert len(config) == 2
    assert config["quick"].max_steps == 5
    assert "other" not in config
    with pytest.raises(KeyError):
        config["other"]


def test_budgets_without_a_name_get_the_one_they_go_by() -> None:
    config = Config(
        {"quick": QUICK, "alias": RunBudget(name="own")},
        default_budget=RunBudget(max_steps=9),
        agents={"researcher": RunBudget(max_steps=3)},
    )
    assert config["quick"].name == "quick"
    assert config["alias"].name == "own"
    assert config.default_budget is not None
    assert config.default_budget.name == "default"
    assert config.agents["researcher"].name == "researcher"


def test_names_in_place_of_budgets_are_looked_up() -> None:
    config = full()
    assert config.default_budget is config["quick"]
    assert config.agents["researcher"] is config["deep"]


def test_an_empty_one_limits_nothing() -> None:
    config = Config()
    assert (len(config), config.default_budget, config.on_unpriced, config.source) == (0, None, None, None)
    assert (config.prices, config.estimates, config.telemetry) == (Prices(), Estimates(), TelemetryConfig())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("quik", "no budget is named 'quik' in budgets.yaml; did you mean 'quick'?"),
        ("zzz", "no budget is named 'zzz' in budgets.yaml; known are quick, deep"),
    ],
)
def test_an_unknown_name_says_which_there_are(name: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        full().budget(name)
    assert str(refused.value) == says


def test_an_unknown_name_without_any_budget() -> None:
    with pytest.raises(ConfigError, match="no budget is named 'quick'; there are none"):
        Config(default_budget="quick")


def test_equal_is_what_says_the_same_wherever_it_was_read() -> None:
    assert full() == full()
    assert Config({"a": QUICK}, source="a.yaml") == Config({"a": QUICK}, source="b.yaml")
    assert Config({"a": QUICK}) != Config({"a": DEEP})
    assert Config({"a": QUICK}) != Config({"a": QUICK}, on_unpriced="deny")
    assert Config({"a": QUICK}) != Config({"a": QUICK}, prices={"m": Price(input=1)})
    assert Config({"a": QUICK}) != {"a": Config({"a": QUICK})["a"]}
    with pytest.raises(TypeError, match="unhashable"):
        hash(full())


def test_it_pickles_and_copies() -> None:
    for twin in (pickle.loads(pickle.dumps(full())), copy.copy(full()), copy.deepcopy(full())):
        assert twin == full()
        assert twin.source == "budgets.yaml"


def test_it_can_not_be_changed() -> None:
    config, given = full(), {"quick": QUICK}
    with pytest.raises(AttributeError):
        config.default_budget = None  # type: ignore[misc]
    with pytest.raises(TypeError):
        config.budgets["new"] = QUICK  # type: ignore[index]
    taken = Config(given)
    given["other"] = DEEP
    assert list(taken) == ["quick"]


def test_it_shows_itself_in_one_line() -> None:
    assert repr(full()) == "Config(['quick', 'deep'], default_budget='quick', source='budgets.yaml')"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"budgets": {"a": 5}}, "budget 'a' must be a RunBudget, got 5"),
        ({"budgets": {"": QUICK}}, "a name must be a text that is not empty"),
        ({"budgets": {1: QUICK}}, "a name must be a text that is not empty"),
        ({"default_budget": 5}, "budget 'default' must be a RunBudget, got 5"),
        ({"agents": {"a": None}}, "budget 'a' must be a RunBudget, got None"),
        ({"agents": {"a": "b"}}, "no budget is named 'b'"),
        ({"prices": {"m": 5}}, "prices map the name of a model"),
        ({"tenants": {"a": ""}}, "a name must be a text that is not empty"),
        ({"require_tenant": 1}, "require_tenant must be True or False, got 1"),
        ({"trust_reported_cost": "yes"}, "trust_reported_cost must be True or False, got 'yes'"),
        ({"tenant_from": "tenant.id"}, r"tenant_from must be a TenantFrom, got 'tenant.id' \(str\)"),
        (
            {"on_unpriced": "estimate"},
            "on_unpriced is 'estimate', which takes the dearest of the given prices, and there",
        ),
        ({"budgets": {"a": ESTIMATING}}, "on_unpriced of budget 'a' is 'estimate', which takes the dearest"),
        ({"agents": {"b": ESTIMATING}, "prices": Prices(listed=True)}, "on_unpriced of budget 'b' is 'estimate'"),
        ({"default_budget": ESTIMATING}, "on_unpriced of budget 'default' is 'estimate'"),
        ({"on_unpriced": "panic"}, "on_unpriced must be 'deny', 'estimate' or 'allow', got 'panic'"),
    ],
)
def test_values_of_the_wrong_kind_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Config(**wrong)


@pytest.mark.parametrize(
    ("make", "wrong", "says"),
    [
        (Estimates, {"output_tokens": 0}, "estimates.output_tokens must be at least 1"),
        (Estimates, {"output_tokens": 1.5}, "estimates.output_tokens must be a whole number"),
        (Estimates, {"hold": "most"}, "estimates.hold must be 'max' or 'expected', got 'most'"),
        (Estimates, {"clamp": 1}, "estimates.clamp must be True or False, got 1"),
        (Estimates, {"min_output_tokens": 0}, "estimates.min_output_tokens must be at least 1"),
        (TenantFrom, {}, "tenant_from needs span_attribute, baggage or both"),
        (TenantFrom, {"baggage": ""}, "tenant_from.baggage must be a text that is not empty, got ''"),
        (TenantFrom, {"span_attribute": 5}, "tenant_from.span_attribute must be a text that is not empty, got 5"),
        (TelemetryConfig, {"events": "logs"}, "telemetry.events must be 'span', 'log' or 'both', got 'logs'"),
        (TelemetryConfig, {"max_tenants": 0}, "telemetry.max_tenants must be at least 1"),
        (TelemetryConfig, {"max_models": -1}, "telemetry.max_models must be from 0"),
        (TelemetryConfig, {"top_runs": True}, "telemetry.top_runs must be a whole number"),
        (TelemetryConfig, {"metrics_port": 70_000}, "telemetry.metrics_port must be from 0 to 65535"),
    ],
)
def test_settings_out_of_bounds_are_refused(make: Any, wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make(**wrong)
