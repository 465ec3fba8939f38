"""Runs inside a run: whether one may be opened, and the part of the runs above that is carved out for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from weakref import finalize

from opentelemetry.context import get_current

from otelbudget.admission import booking, closing
from otelbudget.admission import denial as denials
from otelbudget.admission.admission import judge_state, too_deep
from otelbudget.admission.payer import Payer
from otelbudget.admission.request import Judgement, Request, refused
from otelbudget.admission.state import RunState
from otelbudget.engine.context import PERMIT
from otelbudget.ledger.judging import left, tightest
from otelbudget.ledger.rules import Rule
from otelbudget.model.amounts import RESOURCES, UNLIMITED, Amounts, Money, count, nanousd
from otelbudget.model.budget import RunBudget
from otelbudget.model.keywords import unknown
from otelbudget.model.vector import pack, unpack
from otelbudget.runs import asking
from otelbudget.telemetry import events

#: What a carved child gets: amounts, or a share of what the runs above it have left.
Carve = Mapping[str, Money] | float
#: Gives the amounts that are to be kept, with the ledger's lock held: a share is one of what is left by then.
Wants = Callable[[], Amounts]


def check(parent: RunState) -> None:
    """Refuse a run inside of *parent* where that is closed, frozen, late or too deep."""
    request = Request("check", site=parent.site, permit=PERMIT.of(get_current()))
    if not _judge_child(parent, request).decision.allowed:  # what is allowed is no check of its own
        asking.decide(parent, request, judge=_judge_child)


def _judge_child(parent: Payer, request: Request) -> Judgement:
    """Whether a run may be opened inside of *parent*, by the state of that and of its depth."""
    judged = judge_state(parent, request)
    denial = judged.decision.denial
    if denial is not None and denial.reason != "no_tenant":  # of nobody's runs it is the calls that are refused
        return judged
    run = parent.run
    assert run is not None
    depth = len(run.lineage)
    for one in too_deep(run.lineage, depth):
        denial = denials.too_deep(one, parent, depth)
        if parent.engine.enforce and not one.account.rule.warn:
            return refused(denial, one)
        booking.note(parent, "check", denial, "warn")
        parent.say(run.site, events.check_warned, denial)
    return Judgement()


def wanted(carve: Carve | None, budget: RunBudget, parent: RunState) -> Wants:
    """What *carve* means for a child of *parent* under *budget*; a share is one of what is left when it is taken."""
    if carve is None:
        amounts = Amounts(*(limit if limit < UNLIMITED else 0 for limit in budget.limits))
    elif isinstance(carve, Mapping):
        if strange := carve.keys() - set(RESOURCES):
            raise unknown("carve: unknown resource", min(strange), RESOURCES)
        read = {name: (nanousd if name == "cost_usd" else count)(f"carve: {name}", it) for name, it in carve.items()}
        amounts = Amounts(*(read.get(name, 0) for name in RESOURCES))
    else:
        return _share_of(carve, parent)
    if not any(amounts):
        raise ValueError("mode='carve' keeps nothing here: pass carve={'tokens': 500}, or a budget with limits")
    return lambda: amounts


def _share_of(share: object, parent: RunState) -> Wants:
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise ValueError(f"carve must be amounts, or a share above 0 and at most 1, got {share!r}")
    accounts = parent.run_accounts()
    if not any(account.limits.limited for account in accounts):
        raise ValueError(f"carve={share!r} is a share of what the runs above have left, and they have no limits")
    millionths = round(share * 1_000_000)

    def amounts() -> Amounts:
        room = [left(accounts, i, parent.owner.level) or 0 for i in range(len(RESOURCES))]
        return Amounts(*(amount * millionths // 1_000_000 for amount in room))

    return amounts


def hold(child: RunState, parent: RunState, wants: Wants) -> None:
    """Keep what *wants* gives of *parent* and the runs above it for *child*, which is fresh and can't have more."""
    # One that is dropped before anybody could close it, by an exception at any moment, gives back by itself.
    finalize(child, closing.end_carve, parent.engine.ledger, child.run_accounts()).atexit = False
    here = parent.around()
    request = Request("reserve", site=here.site, permit=here.permit)
    asking.decide(parent, request, judge=partial(_judge, child, wants))


def _judge(child: RunState, wants: Wants, parent: Payer, request: Request) -> Judgement:
    judged = judge_state(parent, request)
    if not judged.decision.allowed:
        return judged
    accounts, ledger = child.run_accounts(), parent.engine.ledger
    over = ledger.set_floor(accounts, lambda: pack(wants()), parent.owner.level if parent.engine.enforce else None)
    if over is None:
        kept = Amounts(*unpack(child.account.floor))
        ledger.limit(child.account, (_at_most(child.account.rule, kept),))
        ledger.add([(parent.cell, "reserve", 1)])
        return Judgement(tightest=None if request.site.span is None else tightest(accounts[:-1]))
    denial = denials.of_account(parent, request._replace(amounts=wants()), over, accounts[:-1])
    return refused(denial, parent.ancestor_of(over.account))


def _at_most(rule: Rule, amounts: Amounts) -> Rule:
    """*rule*, with no more of a carved resource than was carved out."""
    full = tuple(min(limit, share) if share else limit for limit, share in zip(rule.full, amounts, strict=True))
    limits = tuple(
        max(0, limit - (whole - ordinary)) if limit < UNLIMITED else limit
        for limit, whole, ordinary in zip(full, rule.full, rule.limits[0], strict=True)
    )
    return replace(rule, limits=(limits,) * len(rule.limits), full=full)
