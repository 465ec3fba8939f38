"""Which quotas bind whom, in which order, and how other rules come into force."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from otelbudget import Quota
from otelbudget.engine.directory import Directory
from otelbudget.engine.owner import Names, Owner
from otelbudget.ledger.account import QuotaAccount
from otelbudget.ledger.ledger import Ledger
from otelbudget.ledger.rules import Rule
from otelbudget.model.amounts import TOKENS, Amounts
from otelbudget.model.quota import Quotas
from otelbudget.model.vector import lane, pack

NOW_S = 1_700_000_000.0
TOKEN_QUOTA = Quota(tokens=100)


def directory(quotas: Quotas | None = None, **options: Any) -> Directory:
    return Directory(Ledger(clock_s=lambda: NOW_S), quotas or Quotas(), options.pop("orgs", {}), **options)


def rules_of(owner: Owner) -> list[tuple[QuotaAccount, Rule]]:
    return [(account, rule) for account in owner.payers().accounts for rule in account.rules]


def whose(owner: Owner) -> list[tuple[str, str | None]]:
    """(scope, name of the quota) of what binds *owner*, in the order in which it is asked."""
    return [(account.scope, rule.name) for account, rule in rules_of(owner)]


def quotas_in_force(owner: Owner) -> list[Quota | None]:
    return [rule.quota for _, rule in rules_of(owner)]


def tenants_tokens(rules: Directory, tenant: str) -> list[int | None]:
    return [quota.tokens for quota in rules.quotas_of(tenant)]


def spend(rules: Directory, account: QuotaAccount, tokens: int) -> None:
    rules.ledger.charge((account,), pack(Amounts(tokens=tokens)), (), [])


def test_organisation_tenant_and_user_are_asked_in_this_order() -> None:
    rules = directory(
        Quotas(
            org=(Quota(cost_usd=5, name="o"),),
            default=(Quota(tokens=100, name="t1"), Quota(steps=5, per="week", name="t2")),
            users={"u*": (Quota(tool_calls=1, name="u"),)},
        ),
        orgs={"acme": "big"},
    )
    owner = rules.owner(Names(tenant="acme", user="u1", priority="low"))
    assert (owner.org, owner.tenant, owner.user, owner.priority) == ("big", "acme", "u1", "low")
    assert whose(owner) == [("org", "o"), ("tenant", "t1"), ("tenant", "t2"), ("user", "u")]
    assert whose(rules.owner(Names(tenant="acme", user="other"))) == [("org", "o"), ("tenant", "t1"), ("tenant", "t2")]


def test_whom_nothing_limits_has_no_accounts() -> None:
    owner = directory(Quotas(tenants={"acme": (TOKEN_QUOTA,)})).owner(Names(tenant="other"))
    found = owner.payers()
    assert (found.accounts, found.per_run) == ((), ())


def test_one_owner_stands_for_all_who_are_the_same_and_is_gone_with_the_last() -> None:
    rules = directory()
    first = rules.owner(Names(tenant="acme"))
    assert rules.owner(Names(org="default", tenant="acme", priority="normal")) is first
    assert rules.owner(Names(org="big", tenant="acme")) is not first
    assert rules.owner(Names(tenant="acme", user="u1")) is not first
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
    owner = directory(tenant=set_up, require_tenant=required).owner(Names(tenant=named))
    assert (owner.tenant, owner.known) == (tenant, known)


def test_an_unknown_priority_is_an_error() -> None:
    with pytest.raises(ValueError, match="known are low, normal, high"):
        directory().owner(Names(tenant="acme", priority="urgent"))


def test_two_organisations_of_one_tenants_name_share_nothing() -> None:
    rules = directory(Quotas(default=(TOKEN_QUOTA,)))
    one, other = rules.owner(Names(org="a", tenant="acme")), rules.owner(Names(org="b", tenant="acme"))
    assert one.payers().accounts != other.payers().accounts


def test_a_quota_per_run_is_on_no_account_that_runs_share() -> None:
    per_run = Quota(tokens=5, per="run")
    owner = directory(Quotas(default=(per_run, TOKEN_QUOTA))).owner(Names(tenant="acme"))
    assert whose(owner) == [("tenant", "tokens per day")]
    assert [(where, quota) for where, quota in owner.payers().per_run] == [(("tenant", ("default", "acme")), per_run)]


def test_quotas_of_one_window_are_rules_on_one_account_and_other_windows_are_other_accounts() -> None:
    quotas = (
        Quota(tokens=9),
        Quota(steps=9),
        Quota(tokens=9, per="week"),
        Quota(tokens=9, timezone="Asia/Tokyo", name="t"),
    )
    owner = directory(Quotas(default=quotas)).owner(Names(tenant="acme"))
    found = [[rule.name for rule in account.rules] for account in owner.payers().accounts]
    assert found == [["tokens per day", "steps per day"], ["tokens per week"], ["t"]]


def test_whoever_is_named_has_accounts_before_anybody_spends() -> None:
    quotas = Quotas(
        org=(Quota(cost_usd=5),),
        default=(TOKEN_QUOTA,),
        tenants={"acme": (TOKEN_QUOTA,), "trial-*": (TOKEN_QUOTA,)},
        models={"demo": (TOKEN_QUOTA,)},
        tags={"team": {"search": (TOKEN_QUOTA,), "x-*": (TOKEN_QUOTA,)}},
    )
    rules = directory(quotas, orgs={"labs": "big"})
    assert {tuple(account.where) for account in rules.standing()} == {
        ("org", ("big",)),
        ("tenant", ("default", "acme")),
        ("tenant", ("big", "labs")),
        ("model", ("big", "demo")),
        ("tag", ("big", "team", "search")),
    }


def test_accounts_of_windows_that_are_over_are_forgotten_also_of_tenants_that_are_named() -> None:
    now_s = [NOW_S]
    quotas = Quotas(tenants={"acme": (Quota(tokens=100, per="minute"),)})
    rules = Directory(Ledger(clock_s=lambda: now_s[0]), quotas, {})
    for _ in range(3000):
        now_s[0] += 60
        (shown,) = rules.standing()
        assert shown.start_s <= now_s[0] < shown.end_s
    assert len(list(rules.accounts)) <= 1025


def test_other_rules_bind_those_in_use_and_what_was_used_stays_used() -> None:
    rules = directory(Quotas(default=(TOKEN_QUOTA,)))
    owner = rules.owner(Names(tenant="acme"))
    (account,) = owner.payers().accounts
    spend(rules, account, 60)
    rules.configure(Quotas(default=(Quota(tokens=70), Quota(steps=1, name="new"))), {})
    assert owner.payers().accounts == (account,)
    assert (account.rules[0].full[TOKENS], lane(account.used, TOKENS)) == (70, 60)
    assert whose(owner) == [("tenant", "tokens per day"), ("tenant", "new")]
    rules.configure(Quotas(), {})
    assert (owner.payers().accounts, account.rules) == ((), ())


def test_an_account_without_rules_is_not_charged_and_keeps_what_it_has() -> None:
    rules = directory(Quotas(default=(TOKEN_QUOTA,)))
    owner = rules.owner(Names(tenant="acme"))
    (account,) = owner.payers().accounts
    spend(rules, account, 60)
    rules.configure(Quotas(), {})
    assert owner.payers().accounts == ()
    rules.configure(Quotas(default=(Quota(tokens=70, name="back"),)), {})
    assert owner.payers().accounts == (account,)
    assert lane(account.used, TOKENS) == 60


def test_an_override_wins_until_it_is_taken_back() -> None:
    rules = directory(Quotas(default=(TOKEN_QUOTA, Quota(cost_usd=1))))
    owner = rules.owner(Names(tenant="acme"))
    assert rules.override("acme", Quota(tokens=500, name="raised")) == TOKEN_QUOTA
    assert whose(owner) == [("tenant", "tokens per day"), ("tenant", "cost_usd per day")]
    assert tenants_tokens(rules, "acme") == [500, None]
    assert tenants_tokens(rules, "other") == [100, None]
    assert rules.override("acme", Quota(tokens=600)) == Quota(tokens=500)
    assert rules.restore("acme") == [(Quota(tokens=600), TOKEN_QUOTA)]
    assert tenants_tokens(rules, "acme") == [100, None]
    assert rules.restore("acme") == []


def test_the_name_says_more_than_the_resources_about_what_is_overridden() -> None:
    rules = directory(Quotas(default=(Quota(tokens=1, name="a"), Quota(tokens=2, name="b"))))
    assert rules.override("acme", Quota(tokens=9, name="b")) == Quota(tokens=2, name="b")
    assert tenants_tokens(rules, "acme") == [1, 9]


def test_an_override_of_another_window_comes_on_top_and_goes_without_a_trace() -> None:
    rules = directory(Quotas(default=(TOKEN_QUOTA,)))
    owner = rules.owner(Names(tenant="acme"))
    for window in ({"per": "week"}, {"timezone": "Asia/Tokyo"}):
        assert rules.override("acme", Quota(tokens=50, **window)) is None
    assert [quota and quota.per for quota in quotas_in_force(owner)] == ["day", "week", "day"]
    there = list(rules.accounts)
    assert [now for _, now in rules.restore("acme")] == [None, None]
    assert quotas_in_force(owner) == [TOKEN_QUOTA]
    assert [account.rules for account in there if account.spec != TOKEN_QUOTA.window] == [(), ()]


def test_an_override_outlives_rules_that_do_not_know_its_quota() -> None:
    rules = directory(Quotas(default=(TOKEN_QUOTA,)))
    rules.override("acme", Quota(tokens=500))
    rules.configure(Quotas(), {})
    assert tenants_tokens(rules, "acme") == [500]
    rules.configure(Quotas(default=(Quota(tokens=10),)), {})
    assert (tenants_tokens(rules, "acme"), tenants_tokens(rules, "other")) == ([500], [10])
    rules.restore("acme")
    assert tenants_tokens(rules, "acme") == [10]


def test_an_override_goes_along_when_its_tenant_gets_another_organisation() -> None:
    rules = directory(Quotas(default=(TOKEN_QUOTA,)))
    rules.override("acme", Quota(tokens=500))
    rules.override("acme", Quota(steps=5, per="week"))
    rules.configure(Quotas(default=(TOKEN_QUOTA,)), {"acme": "big"})
    owner = rules.owner(Names(tenant="acme"))
    assert (owner.org, whose(owner)) == ("big", [("tenant", "tokens per day"), ("tenant", "steps per week")])
    assert tenants_tokens(rules, "acme") == [500, None]
    assert quotas_in_force(rules.owner(Names(org="default", tenant="acme"))) == [TOKEN_QUOTA]
    assert len(rules.restore("acme")) == 2
    assert tenants_tokens(rules, "acme") == [100]
