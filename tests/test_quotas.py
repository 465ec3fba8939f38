"""What is limited per window, what each priority may use of it, and whose quota is whose."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, replace
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otelbudget import ConfigError
from otelbudget.model.amounts import COST, RESOURCES, STEPS, TOKENS, UNLIMITED
from otelbudget.model.names import undated
from otelbudget.model.quota import PRIORITIES, Quota, Quotas, check_priority
from otelbudget.model.windows import WindowSpec

SHARED = {"high": 0.2, "normal": 0.2}


# --- one quota


def test_a_quota_has_its_limits_in_internal_units_and_its_window() -> None:
    quota = Quota(tokens=50_000, cost_usd=0.05, per="week", timezone="Europe/Berlin", at="06:00")
    limited = {r: limit for r, limit in zip(RESOURCES, quota.limits, strict=True) if limit < UNLIMITED}
    assert limited == {"tokens": 50_000, "cost_usd": 50_000_000}
    assert quota.window == WindowSpec("week", "Europe/Berlin", "06:00")


@pytest.mark.parametrize("resource", RESOURCES)
@pytest.mark.parametrize("amount", [0, 1, 2**53 - 1])
def test_every_resource_can_be_limited_to_any_amount(resource: str, amount: int) -> None:
    if resource == "cost_usd":
        amount //= 10**9
    quota = Quota(**{resource: amount})  # type: ignore[arg-type]
    i = RESOURCES.index(resource)
    assert quota.limits[i] == (amount * 10**9 if i == COST else amount)
    assert all(limit == UNLIMITED for j, limit in enumerate(quota.limits) if j != i)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"tokens": 1}, "tokens per day"),
        ({"cost_usd": 1, "steps": 1, "per": "rolling 24h"}, "steps + cost_usd per rolling 24h"),
        ({"tokens": 1, "name": "trial"}, "trial"),
    ],
)
def test_a_quota_is_called_as_it_says_or_by_what_it_limits(options: dict[str, object], name: str) -> None:
    assert Quota(**options).name == name  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "a quota limits something: give one of steps, tokens, "),
        ({"tokens": None}, "a quota limits something"),
        ({"tokens": -1}, "quota: tokens must be from 0"),
        ({"tokens": True}, "quota: tokens must be a whole number"),
        ({"tokens": 1.5}, "quota: tokens must be a whole number"),
        ({"tokens": "50 thousand"}, "quota: tokens must be a whole number such as 5, 50k or 1.5M, got '50 thousand'"),
        ({"tokens": 2**53}, "quota: tokens must be from 0"),
        ({"steps": float("nan")}, "quota: steps must be"),
        ({"tool_calls": []}, "quota: tool_calls must be"),
        ({"cost_usd": -0.01}, "quota: cost_usd must be"),
        ({"cost_usd": float("inf")}, "quota: cost_usd must be a finite number"),
        ({"cost_usd": Decimal("NaN")}, "quota: cost_usd must be a finite number"),
        ({"cost_usd": "one"}, "quota: cost_usd must be an amount of money such as"),
        ({"cost_usd": 10**8}, "quota: cost_usd must be below"),
        ({"cost_usd": True}, "quota: cost_usd must be a number of USD"),
        ({"tokens": 1, "per": "fortnight"}, "per must be run, .* got 'fortnight'"),
        ({"tokens": 1, "at": "6"}, "at must be a time of day"),
        ({"tokens": 1, "timezone": "Mars"}, "timezone must be an IANA name"),
        ({"tokens": 1, "per": "hour", "at": "06:00"}, "at goes with per day, week or month"),
        ({"tokens": 1, "thresholds": 0.8}, r"thresholds must be a list of ratios, got 0\.8"),
        ({"tokens": 1, "thresholds": None}, "thresholds must be a list of ratios, got None"),
        ({"tokens": 1, "thresholds": (80,)}, "a threshold must be a ratio above 0 and at most 1, got 80"),
        ({"tokens": 1, "thresholds": ("most",)}, "a threshold must be a ratio"),
        ({"tokens": 1, "thresholds": (0,)}, "a threshold must be a ratio"),
        ({"tokens": 1, "thresholds": (float("nan"),)}, "a threshold must be a ratio"),
        ({"tokens": 1, "thresholds": (True,)}, "a threshold must be a ratio"),
        ({"tokens": 1, "reserve_for": 0.2}, r"reserve_for must map priorities to shares, .* got 0\.2"),
        ({"tokens": 1, "reserve_for": ["high"]}, "reserve_for must map"),
        ({"tokens": 1, "reserve_for": {"urgent": 0.2}}, "unknown priority 'urgent': known are low, normal, high"),
        ({"tokens": 1, "reserve_for": {None: 0.2}}, "unknown priority None"),
        ({"tokens": 1, "reserve_for": {"high": 20}}, r"reserve_for\['high'\] must be a share from 0 to 1, got 20"),
        ({"tokens": 1, "reserve_for": {"high": -0.1}}, "must be a share"),
        ({"tokens": 1, "reserve_for": {"high": float("nan")}}, "must be a share"),
        ({"tokens": 1, "reserve_for": {"high": "most"}}, "must be a ratio from 0 to 1, such as 10%, got 'most'"),
        ({"tokens": 1, "reserve_for": {"high": True}}, "must be a share"),
        ({"tokens": 1, "reserve_for": {"high": 0.6, "normal": 0.5}}, "reserve_for keeps more than the whole quota"),
        ({"tokens": 1, "on_exhausted": "stop"}, "on_exhausted must be 'raise' or 'warn', got 'stop'"),
        ({"tokens": 1, "on_exhausted": print}, "on_exhausted must be 'raise' or 'warn'"),
        ({"tokens": 1, "name": ""}, "name must be a text that is not empty, got ''"),
        ({"tokens": 1, "name": 5}, "name must be a text that is not empty, got 5"),
        (
            {"cost_usd": 1e-10},
            r"quota: cost_usd is less than a nano-USD \(1e-9\), got 1e-10, and would be a limit of 0",
        ),
    ],
)
def test_a_bad_argument_of_a_quota_is_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Quota(**options)  # type: ignore[arg-type]


def test_a_quota_takes_only_keywords_that_it_knows() -> None:
    with pytest.raises(TypeError):
        Quota(5)  # type: ignore[misc]
    with pytest.raises(TypeError, match="max_tokens"):
        Quota(max_tokens=5)  # type: ignore[call-arg]


def test_a_quota_cant_be_changed() -> None:
    quota = Quota(tokens=5, reserve_for=SHARED)
    with pytest.raises(FrozenInstanceError):
        quota.tokens = 6  # type: ignore[misc]
    with pytest.raises(TypeError):
        quota.reserve_for["high"] = 0.9  # type: ignore[index]
    with pytest.raises(TypeError):
        quota.limits_of["low"] = (9,)  # type: ignore[index]


def test_the_mapping_it_was_made_from_may_change_later() -> None:
    shares = {"high": 0.2}
    quota = Quota(tokens=100, reserve_for=shares)
    shares["high"] = 0.9
    assert quota.limits_of["normal"][TOKENS] == 80
    assert quota.reserve_for == {"high": 0.2}


EVERYTHING = Quota(
    steps=1,
    tokens=2,
    input_tokens=3,
    output_tokens=4,
    cost_usd=Decimal("0.5"),
    tool_calls=6,
    nested_tool_calls=7,
    per="month",
    timezone="Asia/Kolkata",
    at="06:30",
    thresholds=(0.5, 0.9),
    reserve_for=SHARED,
    on_exhausted="warn",
    name="all",
    origin="budgets.yaml:3",
)


@pytest.mark.parametrize("quota", [Quota(steps=0), Quota(tokens=5, per="rolling 1h"), EVERYTHING])
def test_a_quota_copies_and_pickles_with_all_it_says(quota: Quota) -> None:
    for twin in (copy.copy(quota), copy.deepcopy(quota), pickle.loads(pickle.dumps(quota)), replace(quota)):
        assert (twin, hash(twin), repr(twin)) == (quota, hash(quota), repr(quota))
        assert (twin.limits, twin.limits_of, twin.window) == (quota.limits, quota.limits_of, quota.window)
        assert (twin.origin, twin.cost_usd) == (quota.origin, quota.cost_usd)


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": 3},
        {"cost_usd": 1},
        {"per": "week"},
        {"timezone": "UTC"},
        {"at": None},
        {"thresholds": (1.0,)},
        {"reserve_for": {"high": 0.2}},
        {"reserve_for": None},
        {"on_exhausted": "raise"},
        {"name": "other"},
    ],
)
def test_quotas_that_mean_something_else_differ(change: dict[str, object]) -> None:
    assert replace(EVERYTHING, **change) != EVERYTHING  # type: ignore[arg-type]


def test_quotas_that_mean_the_same_are_equal() -> None:
    assert Quota(cost_usd=0.05) == Quota(cost_usd=Decimal("0.05"))
    assert Quota(tokens=5, thresholds=(1.0, 0.8)) == Quota(tokens=5, thresholds=[0.8, 0.8, 1.0])  # type: ignore[arg-type]
    assert Quota(tokens=5, origin="a.yaml:1") == Quota(tokens=5, origin="b.yaml:2")
    assert hash(Quota(tokens=5, reserve_for=SHARED)) == hash(Quota(tokens=5, reserve_for=dict(SHARED)))


def test_replacing_a_limit_replaces_what_it_comes_to_and_keeps_the_name() -> None:
    more = replace(Quota(tokens=100, reserve_for={"high": 0.5}), tokens=200)
    assert (more.limits[TOKENS], more.limits_of["normal"][TOKENS], more.name) == (200, 100, "tokens per day")


# --- priorities


def test_priorities_rise_from_low_to_high() -> None:
    assert PRIORITIES == ("low", "normal", "high")


@pytest.mark.parametrize(
    ("limit", "shares", "low", "normal", "high"),
    [
        (50_000, SHARED, 30_000, 40_000, 50_000),
        (100, {"high": 0.2}, 80, 80, 100),
        (100, {"normal": 0.2}, 80, 100, 100),
        (100, {"high": 1}, 0, 0, 100),
        (100, {"high": 0.29}, 71, 71, 100),  # 0.29 * 100 is 28.999999999999996 in floats
        (2**53 - 1, SHARED, 5_404_319_552_844_594, 7_205_759_403_792_792, 2**53 - 1),
        (3, SHARED, 1, 2, 3),  # a fraction of a token stays kept
        (1, SHARED, 0, 0, 1),
        (0, SHARED, 0, 0, 0),
    ],
)
def test_a_priority_stops_at_what_is_kept_for_those_above_it(
    limit: int, shares: dict[str, float], low: int, normal: int, high: int
) -> None:
    limits_of = Quota(tokens=limit, reserve_for=shares).limits_of
    assert {name: limits[TOKENS] for name, limits in limits_of.items()} == {"low": low, "normal": normal, "high": high}
    assert all(limits[STEPS] == UNLIMITED for limits in limits_of.values())
    assert all(type(limits[TOKENS]) is int for limits in limits_of.values())


@given(st.integers(0, 2**53 - 1), st.integers(0, 100), st.integers(0, 100))
def test_shares_in_whole_percent_are_exact(limit: int, high: int, normal: int) -> None:
    if high + normal > 100:
        high, normal = 100 - high, 100 - normal
    limits_of = Quota(tokens=limit, reserve_for={"high": high / 100, "normal": normal / 100}).limits_of
    if not (high or normal):
        assert limits_of == {}
        return
    assert limits_of["low"][TOKENS] == int(Fraction(limit * (100 - high - normal), 100))
    assert limits_of["normal"][TOKENS] == int(Fraction(limit * (100 - high), 100))
    assert limits_of["high"][TOKENS] == limit


def test_every_limited_resource_is_shared_alike() -> None:
    limits = Quota(tokens=100, cost_usd=1, reserve_for=SHARED).limits_of["low"]
    assert (limits[TOKENS], limits[COST]) == (60, 600_000_000)


@pytest.mark.parametrize("shares", [None, {}, {"high": 0}])
def test_where_nothing_is_kept_there_is_nothing_to_look_up(shares: Mapping[str, float] | None) -> None:
    assert Quota(tokens=100, reserve_for=shares).limits_of == {}


@pytest.mark.parametrize("name", PRIORITIES)
def test_a_known_priority_is_itself(name: str) -> None:
    assert check_priority(name) == name


@pytest.mark.parametrize("name", ["urgent", "High", "", None, 1, ["high"]])
def test_an_unknown_priority_is_an_error_that_names_the_known_ones(name: object) -> None:
    with pytest.raises(ValueError, match=r"unknown priority .*: known are low, normal, high"):
        check_priority(name)


# --- whose


A, B, C, D = (Quota(tokens=n, name=f"q{n}") for n in range(1, 5))


@pytest.mark.parametrize(
    ("tenant", "found"),
    [("acme-eu", (A,)), ("acme-us", (B,)), ("globex", (C, D)), ("exempt", ()), ("Acme-eu", (C, D)), ("acme-*", (B,))],
)
def test_a_tenant_has_its_own_quotas_then_those_of_a_pattern_then_the_default(
    tenant: str, found: tuple[Quota, ...]
) -> None:
    quotas = Quotas(default=(C, D), tenants={"acme-*": [B], "acme-eu": A, "exempt": []})
    assert quotas.found("tenants", tenant)[1] == found


@pytest.mark.parametrize(("user", "found"), [("ann", (A,)), ("bot-7", (B,)), ("bob", ())])
def test_a_user_has_its_own_quotas_then_those_of_a_pattern_then_none(user: str, found: tuple[Quota, ...]) -> None:
    assert Quotas(default=(D,), users={"bot-*": [B], "ann": [A]}).found("users", user)[1] == found


def test_a_star_gives_every_user_quotas() -> None:
    assert Quotas(users={"*": [A]}).found("users", "anybody")[1] == (A,)


@pytest.mark.parametrize(
    ("model", "name", "found"),
    [
        ("gpt-4o", "gpt-4o", (A,)),
        ("gpt-4o-2024-08-06", "gpt-4o", (A,)),  # closer than the pattern, though its date is not named
        ("gpt-4o-2024-05-13", "gpt-4o-2024-05-13", (C,)),
        ("gpt-4o-mini", "gpt-*", (B,)),
        ("claude", None, ()),
    ],
)
def test_a_model_is_counted_under_its_name_then_without_its_date_then_under_a_pattern(
    model: str, name: str | None, found: tuple[Quota, ...]
) -> None:
    quotas = Quotas(default=(D,), models={"gpt-*": [B], "gpt-4o": [A], "gpt-4o-2024-05-13": [C]})
    path, listed = quotas.found("models", model, undated(model))
    assert (path and path[-1], listed) == (name, found)


def test_agents_and_conversations_are_matched_as_users_are() -> None:
    quotas = Quotas(agents={"search-*": [B], "search-docs": A}, conversations={"*": [C], "vip": [D]})
    assert [quotas.found("agents", name)[1] for name in ("search-docs", "search-web", "writer")] == [(A,), (B,), ()]
    assert [quotas.found("conversations", one)[1] for one in ("vip", "c1")] == [(D,), (C,)]


def test_a_tag_is_named_exactly_and_its_values_are_matched() -> None:
    quotas = Quotas(tags={"team": {"search": [A], "s*": [B]}, "stage": {"prod": [C]}})
    assert [quotas.found("tags", "team", value)[1] for value in ("search", "sales", "hr")] == [(A,), (B,), ()]
    assert (quotas.found("tags", "stage", "prod")[1], quotas.found("tags", "stage", "search")[1]) == ((C,), ())
    assert quotas.found("tags", "other", "search")[1] == ()


@pytest.mark.parametrize("level", ["models", "agents", "conversations", "tags"])
def test_what_binds_calls_has_no_quota_per_run(level: str) -> None:
    named = {"x": [A, Quota(steps=5, per="run")]}
    with pytest.raises(
        ConfigError, match=r"quotas\.\w+(\.team)?\.x: a quota per run binds root runs, and here it is calls"
    ):
        Quotas(**{level: {"team": named} if level == "tags" else named})


@pytest.mark.parametrize("level", ["tenants", "users"])
def test_what_binds_runs_may_have_a_quota_per_run(level: str) -> None:
    assert Quotas(**{level: {"x": [Quota(steps=5, per="run")]}})


def test_who_is_found_says_by_which_setting() -> None:
    quotas = Quotas(default=[A], tenants={"x": [B]}, tags={"team": {"s*": [C]}})
    assert quotas.found("tenants", "x") == (("quotas", "tenants", "x"), (B,))
    assert quotas.found("tenants", "y") == (("quotas", "default"), (A,))
    assert quotas.found("tags", "team", "sales") == (("quotas", "tags", "team", "s*"), (C,))
    assert quotas.found("users", "ann") == (None, ())


def test_a_long_list_of_quotas_is_checked_in_one_pass() -> None:
    class Name(str):
        compared = 0

        def __eq__(self, other: object) -> bool:
            Name.compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    Quotas(org=[Quota(steps=1, name=Name(i)) for i in range(2_000)])
    assert Name.compared < 20_000


def test_no_quotas_are_false_and_any_are_true() -> None:
    assert not Quotas()
    for given_ in ({"org": (A,)}, {"default": (A,)}, {"tenants": {"a": A}}, {"users": {"a": A}}, {"models": {"a": A}}):
        assert Quotas(**given_)  # type: ignore[arg-type]


def test_lists_may_be_any_iterable_or_a_single_quota() -> None:
    quotas = Quotas(org=A, default=iter([A, B]), tenants={"x": (q for q in (C, D))})  # type: ignore[arg-type]
    assert (quotas.org, quotas.default, quotas.found("tenants", "x")[1]) == ((A,), (A, B), (C, D))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"org": None}, "quotas.org must be a list of quotas, got None"),
        ({"default": "50k"}, "quotas.default must be a list of quotas, got '50k'"),
        ({"default": [50_000]}, r"quotas.default\[0\] must be a Quota, got 50000 \(int\)"),
        ({"org": [A, {"tokens": 5}]}, r"quotas.org\[1\] must be a Quota, got {'tokens': 5} \(dict\)"),
        ({"tenants": [A]}, "quotas.tenants must map names to lists of quotas"),
        ({"users": None}, "quotas.users must map names"),
        ({"agents": [A]}, "quotas.agents must map names to lists of quotas"),
        ({"tags": [A]}, "quotas.tags must map names to values"),
        ({"tags": {"team": [A]}}, "quotas.tags.team must map names to lists of quotas"),
        ({"tags": {"team": {"": [A]}}}, "a name must be a text that is not empty"),
        ({"tags": {"te*": {"x": [A]}}}, r"quotas.tags.te\*: a tag is named exactly; only its values may be patterns"),
        ({"models": A}, "quotas.models must map names"),
        ({"tenants": {"": A}}, "a name must be a text that is not empty, got ''"),
        ({"tenants": {5: A}}, "a name must be a text that is not empty, got 5"),
        ({"tenants": {"acme": 5}}, "quotas.tenants.acme must be a list of quotas, got 5"),
        ({"models": {"gpt": [None]}}, r"quotas.models.gpt\[0\] must be a Quota, got None"),
        ({"default": [A, B, A]}, r"quotas.default\[2\]: a quota before it is called 'q1' too; give it a name"),
        ({"users": {"ann": [Quota(tokens=1), Quota(tokens=2)]}}, r"quotas.users.ann\[1\]: .*'tokens per day' too"),
    ],
)
def test_a_bad_argument_of_quotas_is_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Quotas(**options)  # type: ignore[arg-type]


def test_one_name_may_be_used_in_different_lists() -> None:
    quotas = Quotas(org=[A], default=[A], tenants={"x": [A], "y": [A]}, users={"*": [A]}, models={"m": [A]})
    assert quotas.found("tenants", "x")[1] == quotas.found("tenants", "y")[1] == (A,)


def test_quotas_copy_and_pickle_and_cant_be_changed() -> None:
    quotas = Quotas(
        org=[A],
        default=[B],
        tenants={"x": [C]},
        users={"*": [D]},
        models={"m": [EVERYTHING]},
        tags={"team": {"search": [A]}},
    )
    for twin in (copy.copy(quotas), copy.deepcopy(quotas), pickle.loads(pickle.dumps(quotas)), replace(quotas)):
        assert twin == quotas
        assert twin.found("tenants", "x")[1] == (C,)
    assert quotas != replace(quotas, tenants={})
    with pytest.raises(TypeError):
        quotas.tenants["y"] = (A,)  # type: ignore[index]
    with pytest.raises(TypeError):
        quotas.tags["team"]["y"] = (A,)  # type: ignore[index]
    with pytest.raises(FrozenInstanceError):
        quotas.org = ()  # type: ignore[misc]
