"""Who spends: which quotas bind whom, in which order, and how other rules come into force."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from otelbudget import Quota
from otelbudget.engine.owner import Owner, Owners
from otelbudget.model.amounts import COST, STEPS, TOKENS
from otelbudget.model.quota import Quotas
from otelbudget.stores.memory import MemoryStore

NOW_S = 1_700_000_000.0
TOKEN_QUOTA = Quota(tokens=100)


def owners(quotas: Quotas | None = None, **options: Any) -> Owners:
    store = MemoryStore(clock_s=lambda: NOW_S)
    return Owners(store, quotas or Quotas(), **{"orgs": {}, "tenant": None, "require_tenant": False, **options})


def whose(owner: Owner) -> list[tuple[str, str | None]]:
    """(scope, name of the quota) of what binds *owner*, in the order in which it is asked."""
    return [(book.where.scope, book.quota.name) for book in owner.books]


def tenants_quota(rules: Owners, tenant: str) -> list[int | None]:
    return [book.quota.tokens for book in rules.owner(None, tenant, None, None).books]


def test_organisation_tenant_and_user_are_asked_in_this_order() -> None:
    rules = owners(
        Quotas(
            org=(Quota(cost_usd=5, name="o"),),
            default=(Quota(tokens=100, name="t1"), Quota(steps=5, per="week", name="t2")),
            users={"u*": (Quota(tool_calls=1, name="u"),)},
        ),
        orgs={"acme": "big"},
    )
    owner = rules.owner(None, "acme", "u1", "low")
    assert (owner.org, owner.tenant, owner.user, owner.priority) == ("big", "acme", "u1", "low")
    assert whose(owner) == [("org", "o"), ("tenant", "t1"), ("tenant", "t2"), ("user", "u")]
    assert whose(rules.owner(None, "acme", "other", None)) == [("org", "o"), ("tenant", "t1"), ("tenant", "t2")]
    assert owner.limited >= {COST, TOKENS, STEPS}
    assert owner.money_limited


def test_whom_nothing_limits_has_no_books() -> None:
    owner = owners(Quotas(tenants={"acme": (TOKEN_QUOTA,)})).owner(None, "other", None, None)
    assert (owner.books, owner.per_run, owner.limited, owner.money_limited) == ((), (), frozenset(), False)


def test_a_quota_that_only_warns_of_money_does_not_limit_it() -> None:
    rules = owners(Quotas(default=(Quota(cost_usd=1, on_exhausted="warn"),)))
    assert not rules.owner(None, "acme", None, None).money_limited


def test_one_owner_stands_for_all_who_are_the_same_and_is_gone_with_the_last() -> None:
    rules = owners()
    first = rules.owner(None, "acme", None, None)
    assert rules.owner("default", "acme", None, "normal") is first
    assert rules.owner("big", "acme", None, None) is not first
    assert rules.owner(None, "acme", "u1", None) is not first
    del first
    gc.collect()
    assert len(rules._owners) == 0


@pytest.mark.parametrize(
    ("set_up", "required", "named", "tenant", "known"),
    [
        (None, False, None, "default", True),
        (None, True, None, "default", False),
        (None, True, "default", "default", True),
        (None, True, "acme", "acme", True),
        ("acme", True, None, "acme", True),
        ("acme", True, "other", "other", True),
    ],
)
def test_who_names_no_tenant_is_the_set_ups_or_the_default_one_which_may_be_unknown(
    set_up: str | None, required: bool, named: str | None, tenant: str, known: bool
) -> None:
    owner = owners(tenant=set_up, require_tenant=required).owner(None, named, None, None)
    assert (owner.tenant, owner.known) == (tenant, known)


def test_an_unknown_priority_is_an_error() -> None:
    with pytest.raises(ValueError, match="known are low, normal, high"):
        owners().owner(None, "acme", None, "urgent")


def test_two_organisations_of_one_tenants_name_share_nothing() -> None:
    rules = owners(Quotas(default=(TOKEN_QUOTA,)))
    one, other = rules.owner("a", "acme", None, None), rules.owner("b", "acme", None, None)
    assert one.books[0] is not other.books[0]


def test_each_root_run_has_its_own_account_of_a_quota_per_run() -> None:
    rules = owners(Quotas(default=(Quota(tokens=5, per="run"), TOKEN_QUOTA)))
    owner = rules.owner(None, "acme", None, None)
    assert whose(owner) == [("tenant", "tokens per day")]
    (first,), (second,) = owner.run_accounts(NOW_S), owner.run_accounts(NOW_S)
    assert first is not second
    assert first.limits[TOKENS] == 5


def test_whoever_is_named_has_books_before_anybody_spends() -> None:
    quotas = Quotas(
        org=(Quota(cost_usd=5),), default=(TOKEN_QUOTA,), tenants={"acme": (TOKEN_QUOTA,), "trial-*": (TOKEN_QUOTA,)}
    )
    rules = owners(quotas, orgs={"labs": "big"})
    found = {(book.where.scope, book.where.org, book.where.tenant) for book in rules._store.books}
    assert found == {("org", "big", ""), ("tenant", "default", "acme"), ("tenant", "big", "labs")}
    assert all(book.pinned for book in rules._store.books)


def test_other_rules_bind_those_in_use_and_what_was_used_stays_used() -> None:
    rules = owners(Quotas(default=(TOKEN_QUOTA,)))
    owner = rules.owner(None, "acme", None, None)
    account = owner.books[0].current(NOW_S)
    account.used[TOKENS] = 60
    rules.configure(Quotas(default=(Quota(tokens=70), Quota(steps=1, name="new"))), {}, require_tenant=False)
    assert owner.books[0].current(NOW_S) is account
    assert (account.limits[TOKENS], account.used[TOKENS]) == (70, 60)
    assert whose(owner) == [("tenant", "tokens per day"), ("tenant", "new")]
    rules.configure(Quotas(), {}, require_tenant=False)
    assert (owner.books, list(rules._store.books)) == ((), [])


def test_own_entries_come_before_defaults_and_the_configurations_before_those_added() -> None:
    rules = owners(Quotas(tenants={"acme": (Quota(tokens=1),), "free": ()}))
    rules.add(Quotas(default=(Quota(tokens=2),), tenants={"acme": (Quota(tokens=3),), "own": (Quota(tokens=4),)}))
    rules.add(Quotas(default=(Quota(tokens=5),), tenants={"own": (Quota(tokens=6),), "late-*": (Quota(tokens=7),)}))
    found = {name: tenants_quota(rules, name) for name in ("acme", "free", "own", "late-1", "visitor")}
    assert found == {"acme": [1], "free": [], "own": [4], "late-1": [7], "visitor": [2]}
    rules.configure(Quotas(default=(Quota(tokens=8),)), {}, require_tenant=False)
    found = {name: tenants_quota(rules, name) for name in ("acme", "free", "own", "visitor")}
    assert found == {"acme": [3], "free": [8], "own": [4], "visitor": [8]}


def test_what_was_added_before_is_not_added_again() -> None:
    rules = owners()
    for _ in range(3):
        rules.add(Quotas(default=(Quota(cost_usd=2),)))
    assert len(rules._added) == 1


def test_an_override_wins_until_it_is_taken_back() -> None:
    rules = owners(Quotas(default=(TOKEN_QUOTA, Quota(cost_usd=1))))
    owner = rules.owner(None, "acme", None, None)
    assert rules.override("acme", Quota(tokens=500, name="raised")) == TOKEN_QUOTA
    assert [(book.quota.name, book.quota.tokens) for book in owner.books] == [
        ("tokens per day", 500),
        ("cost_usd per day", None),
    ]
    assert tenants_quota(rules, "other") == [100, None]
    assert rules.override("acme", Quota(tokens=600)) == Quota(tokens=500)
    assert rules.restore("acme") == [(Quota(tokens=600), TOKEN_QUOTA)]
    assert tenants_quota(rules, "acme") == [100, None]
    assert rules.restore("acme") == []


def test_the_name_says_more_than_the_resources_about_what_is_overridden() -> None:
    rules = owners(Quotas(default=(Quota(tokens=1, name="a"), Quota(tokens=2, name="b"))))
    assert rules.override("acme", Quota(tokens=9, name="b")) == Quota(tokens=2, name="b")
    assert tenants_quota(rules, "acme") == [1, 9]


def test_an_override_of_another_window_comes_on_top_and_goes_without_a_trace() -> None:
    rules = owners(Quotas(default=(TOKEN_QUOTA,)))
    owner = rules.owner(None, "acme", None, None)
    for window in ({"per": "week"}, {"timezone": "Asia/Tokyo"}):
        assert rules.override("acme", Quota(tokens=50, **window)) is None
    assert [book.quota.per for book in owner.books] == ["day", "week", "day"]
    assert [now for _, now in rules.restore("acme")] == [None, None]
    assert (len(owner.books), len(list(rules._store.books))) == (1, 1)


def test_an_override_outlives_rules_that_do_not_know_its_quota() -> None:
    rules = owners(Quotas(default=(TOKEN_QUOTA,)))
    rules.override("acme", Quota(tokens=500))
    rules.configure(Quotas(), {}, require_tenant=False)
    assert tenants_quota(rules, "acme") == [500]
    rules.configure(Quotas(default=(Quota(tokens=10),)), {}, require_tenant=False)
    assert (tenants_quota(rules, "acme"), tenants_quota(rules, "other")) == ([500], [10])
    rules.restore("acme")
    assert tenants_quota(rules, "acme") == [10]


def test_an_override_goes_along_when_its_tenant_gets_another_organisation() -> None:
    rules = owners(Quotas(default=(TOKEN_QUOTA,)))
    rules.override("acme", Quota(tokens=500))
    rules.override("acme", Quota(steps=5, per="week"))
    rules.configure(Quotas(default=(TOKEN_QUOTA,)), {"acme": "big"}, require_tenant=False)
    owner = rules.owner(None, "acme", None, None)
    assert (owner.org, [book.quota.name for book in owner.books]) == ("big", ["tokens per day", "steps per week"])
    assert tenants_quota(rules, "acme") == [500, None]
    assert [book.quota.tokens for book in rules.owner("default", "acme", None, None).books] == [100]
    assert len(rules.restore("acme")) == 2
    assert tenants_quota(rules, "acme") == [100]
