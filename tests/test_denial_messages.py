"""Every denial answers, where it applies: what, where, how much used and held, when it resets, how to raise it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from world import PRICES, World

from otelbudget import BudgetExceeded, Config, RunBudget, Usage
from otelbudget.calls.model_call import ModelRequest, begin
from otelbudget.model.quota import Quota, Quotas

#: World's wall clock begins at 22:13:20 UTC on this day.
TODAY = "2023-11-14"


class Said(NamedTuple):
    """A way to be refused, and what each part of the message says; None where the part does not apply.

    Attributes:
        name: The reason, and what is special about it.
        refuse: Makes the denial.
        what, where, used, resets, how: The parts.
    """

    name: str
    refuse: Callable[[Callable[..., World]], Any]
    what: str
    where: str
    used: str | None = None
    resets: str | None = None
    how: str | None = None


def of_run(make: Callable[..., World], do: Callable[[World, Any], None], **budget: Any) -> None:
    """*do*, in a run of tenant ``acme`` whose budget is ``small``; *budget* are its limits."""
    world = make(config=Config(prices=PRICES))
    world.activate()
    with world.run(RunBudget(name="small", **budget), tenant="acme", reraise=False) as run:
        do(world, run)


def of_quota(
    make: Callable[..., World],
    do: Callable[[World, Any], None],
    quota: Quota,
    *,
    of: str = "tenants",
    key: str = "acme",
    **who: Any,
) -> None:
    """*do*, in a run without a limit of its own that *quota* binds."""
    listed: dict[str, Any] = {of: [quota]} if of == "org" else {of: {key: [quota]}}
    world = make(config=Config(prices=PRICES, quotas=Quotas(**listed)))
    world.activate()
    with world.run(tenant="acme", reraise=False, **who) as run:
        do(world, run)


def asking(tokens: int) -> Callable[[World, Any], None]:
    """25 tokens used, 20 held, and *tokens* asked for."""

    def do(world: World, run: Any) -> None:
        run.record(Usage(25, 0))
        with run.reserve(tokens=20):
            run.check(tokens=tokens)

    return do


spent, spent_busy = asking(26), asking(10)


def step(world: World, run: Any) -> None:
    run.record(Usage(1, 1))
    run.check(steps=1)


def called(world: World, run: Any, model: str = "demo") -> None:
    begin(ModelRequest(provider="p", operation="chat", model=model, input_tokens=5, max_output_tokens=900))


def wrapped(world: World, run: Any) -> None:
    with pytest.raises(BudgetExceeded):
        run.check(steps=1)
    with run.wrap_up():
        run.check(tool_calls=1)


def too_late(world: World, run: Any) -> None:
    world.advance(12.5)
    run.check()


def frozen(world: World, run: Any) -> None:
    run.freeze(reason="audit")
    run.check()


def unpriced(world: World, run: Any) -> None:
    run.record_call(5)
    run.check()


def carved(world: World, run: Any) -> None:
    with run.child(RunBudget(name="kid"), mode="carve", carve={"tokens": 20}, reraise=False) as kid:
        kid.check(tokens=21)


def closed(make: Callable[..., World]) -> None:
    world = make()
    with world.run(RunBudget(name="small"), tenant="acme") as run:
        pass
    run.check()


def ambient(make: Callable[..., World]) -> None:
    world = make(RunBudget(max_steps=0, name="small"))
    world.manager.check()


def nobodys(make: Callable[..., World]) -> None:
    world = make(config=Config(require_tenant=True))
    with world.run(RunBudget(name="small"), reraise=False) as run:
        run.check()


def tenant_quota(do: Callable[[World, Any], None], **quota: Any) -> Callable[[Callable[..., World]], Any]:
    return lambda make: of_quota(make, do, Quota(**quota))


RUN = "budget 'small' of run (tenant 'acme')"
NO_RESET = "A run's budget does not reset"
TENANT = "of tenant 'acme' (org 'default')"

CASES = [
    Said(
        "limit",
        lambda make: of_run(make, spent, max_tokens=50),
        "exhausted: tokens",
        RUN,
        "used 25, held 20 of 50, requested 26",
        NO_RESET,
        "raise max_tokens, or call run.extend(tokens=...)",
    ),
    Said(
        "limit: money",
        lambda make: of_run(make, lambda w, r: r.check(cost_usd=0.06), max_cost_usd=0.05),
        "exhausted: cost_usd",
        RUN,
        "used $0 of $0.05, requested $0.06",
        NO_RESET,
        "raise max_cost_usd, or call run.extend(cost_usd=...)",
    ),
    Said(
        "limit: the request's own maximum",
        lambda make: of_run(make, called, max_tokens=50),
        "exhausted: tokens",
        RUN,
        "used 0 of 50, requested 905. The request's own maximum of 900 output tokens is part of that",
        NO_RESET,
        "a smaller one may fit",
    ),
    Said(
        "limit: a part is set aside",
        lambda make: of_run(make, step, max_steps=2, wrap_up={"steps": 1}),
        "exhausted: steps",
        RUN,
        "used 1 of 1 (1 more set aside for wrap_up()), requested 1",
        NO_RESET,
        "raise max_steps, or call run.extend(steps=...)",
    ),
    Said(
        "limit: depth",
        lambda make: of_run(make, lambda w, r: r.child().__enter__(), max_depth=0),
        "exhausted: depth",
        RUN,
        "used 0 of 0, requested 1",
        None,
        "Raise max_depth, or open the run with mode='detached'",
    ),
    Said(
        "limit: of a carved child",
        lambda make: of_run(make, carved, max_tokens=100),
        "exhausted: tokens",
        "budget 'kid' of run (tenant 'acme')",
        "used 0 of 20, requested 21",
        None,
        "what was carved out for it: carve more, or call its extend(tokens=...)",
    ),
    Said(
        "limit: outside every run",
        ambient,
        "exhausted: steps",
        "budget 'small' of run",
        "used 0 of 0, requested 1",
        NO_RESET,
        "open one per request or job with `with otelbudget.run(...):`, or start it anew with manager.reset()",
    ),
    Said(
        "busy",
        lambda make: of_run(make, spent_busy, max_tokens=50),
        "busy: tokens",
        RUN,
        "used 25, held 20 of 50, requested 10",
        "retry when one has ended, in about 1.0 s",
        "raise max_tokens, or call run.extend(tokens=...)",
    ),
    Said(
        "deadline",
        lambda make: of_run(make, too_late, max_seconds=10),
        "out of time",
        RUN,
        "12.5 s of 10 s have passed",
        None,
        "Raise max_seconds, or call run.extend(seconds=...)",
    ),
    Said(
        "deadline: time that is asked for",
        lambda make: of_run(make, lambda w, r: r.check(seconds=20), max_seconds=10),
        "out of time",
        RUN,
        "0 s of 10 s have passed, and 20 s more were asked for",
        None,
        "Raise max_seconds, or call run.extend(seconds=...)",
    ),
    Said(
        "limit: in wrap_up",
        lambda make: of_run(make, wrapped, max_steps=1, wrap_up={"steps": 1}),
        "wrap_up() admits one model call and no tool call",
        RUN,
    ),
    Said("frozen", lambda make: of_run(make, frozen), "frozen (audit)", RUN, None, "until run.unfreeze()"),
    Said("closed", closed, "the run has ended", RUN, None, None, "Open a new otelbudget.run()"),
    Said(
        "unpriced: the model",
        lambda make: of_run(make, lambda w, r: called(w, r, "mystery"), max_cost_usd=1),
        "no price is known for model 'mystery', and a cost limit is in force",
        RUN,
        None,
        None,
        "Add it under `prices:` in budgets.yaml",
    ),
    Said(
        "unpriced: what was recorded",
        lambda make: of_run(make, unpriced, max_cost_usd=1),
        "tokens were recorded without a cost or a model",
        RUN,
        None,
        None,
        "pass cost_usd, or set on_unpriced to 'estimate' or 'allow'",
    ),
    Said("no_tenant", nobodys, "a tenant is required and none was given", "budget 'small' of run:", how="tenant=...)"),
    Said(
        "limit: of a tenant per day",
        tenant_quota(spent, tokens=50, per="day", timezone="Europe/Berlin", at="06:00", origin="budgets.yaml:7"),
        "exhausted: tokens",
        f"quota 'tokens per day' {TENANT}",
        "used 25, held 20 of 50, requested 26",
        "It resets at 2023-11-15T06:00:00+01:00, in 6 h 47 min",
        "raise it under quotas (budgets.yaml:7)",
    ),
    Said(
        "limit: of a tenant, rolling",
        tenant_quota(spent, tokens=50, per="rolling 1h"),
        "exhausted: tokens",
        f"quota 'tokens per rolling 1h' {TENANT}",
        "used 25, held 20 of 50, requested 26",
        f"Its oldest charges fall out at {TODAY}T23:14:00+00:00, in 61 min",
        "raise it under quotas",
    ),
    Said(
        "limit: of a tenant for ever",
        tenant_quota(spent, tokens=50, per="lifetime"),
        "exhausted: tokens",
        f"quota 'tokens per lifetime' {TENANT}",
        "used 25, held 20 of 50, requested 26",
        "It never resets",
        "raise it under quotas",
    ),
    Said(
        "limit: of a tenant in each run",
        tenant_quota(spent, tokens=50, per="run"),
        "exhausted: tokens",
        f"quota 'tokens per run' {TENANT}",
        "used 25, held 20 of 50, requested 26",
        "It is each run's own and does not reset",
        "raise it under quotas",
    ),
    Said(
        "limit: of an organisation",
        lambda make: of_quota(make, step, Quota(steps=1, name="fleet"), of="org", org="globex"),
        "exhausted: steps",
        "quota 'fleet' of org 'globex'",
        "used 1 of 1, requested 1",
        "It resets at 2023-11-15T00:00:00+00:00, in 107 min",
        "raise it under quotas",
    ),
    Said(
        "limit: of a user",
        lambda make: of_quota(make, step, Quota(steps=1, per="minute"), of="users", key="ann", user="ann"),
        "exhausted: steps",
        "quota 'steps per minute' of user 'ann' of tenant 'acme' (org 'default')",
        "used 1 of 1, requested 1",
        f"It resets at {TODAY}T22:14:00+00:00, in 40 s",
        "raise it under quotas.",
    ),
    Said(
        "limit: of a model",
        lambda make: of_quota(make, called, Quota(tokens=900, per="month"), of="models", key="dem*"),
        "exhausted: tokens",
        "quota 'tokens per month' of model 'dem*' (org 'default')",
        "used 0 of 900, requested 905",
        "No window has room for a request of that size",
        "raise it under quotas",
    ),
    Said(
        "limit: of a priority",
        lambda make: of_quota(make, spent, Quota(tokens=50, reserve_for={"high": 0.2}), priority="low"),
        "exhausted: tokens",
        f"quota 'tokens per day' {TENANT}",
        "used 25 of 40 (what priority 'low' may use of 50), requested 20",
        "in 107 min",
        "raise it under quotas",
    ),
    Said(
        "busy: of a tenant",
        tenant_quota(spent_busy, tokens=50),
        "busy: tokens",
        f"quota 'tokens per day' {TENANT}",
        "used 25, held 20 of 50, requested 10",
        "retry when one has ended, in about 1.0 s, or wait with wait_s. It resets at 2023-11-15T00:00:00+00:00",
        "raise it under quotas or with QuotaService.set_quota()",
    ),
]


def denied(case: Said, make: Callable[..., World]) -> BudgetExceeded:
    with pytest.raises(BudgetExceeded) as raised:
        case.refuse(make)
    return raised.value


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_denial_says_what_where_how_much_until_when_and_how_to_raise_it(
    make_world: Callable[..., World], case: Said
) -> None:
    error = denied(case, make_world)
    assert error.reason == case.name.split(":")[0]
    for part in (case.what, case.where, case.used, case.resets, case.how):
        if part is not None:
            assert part in str(error)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_a_denial_says_it_carries_too(make_world: Callable[..., World], case: Said) -> None:
    error = denied(case, make_world)
    if case.used is not None and error.resource not in ("seconds", "depth", "cost_usd"):
        held = f", held {error.reserved}" if error.reserved else ""
        assert f"used {error.used}{held} of {error.limit}" in str(error)
        assert f"requested {error.requested}" in str(error)
    if case.resets is not None and case.resets.startswith(("It resets", "Its oldest")):
        assert error.resets_at is not None
        assert error.resets_at.isoformat(timespec="seconds") in str(error)
    assert (error.retry_after_s is not None) >= (error.reason == "busy")
    assert error.scope == ("run" if case.where.startswith("budget") else case.where.split(" of ")[1].split(" ")[0])


def test_every_reason_that_a_store_in_memory_has_is_shown_here() -> None:
    reasons = {"limit", "busy", "deadline", "frozen", "closed", "unpriced", "no_tenant"}
    assert {case.name.split(":")[0] for case in CASES} == reasons
