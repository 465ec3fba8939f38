"""Random requests of runs, wherever quotas are counted, and of a plain model: every decision and number is the same.

Windows that begin anew and that roll, priorities, and several rules on one account, through the public API.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from store_kit import NOON_S, STORES, Clock

from otelbudget import BudgetExceeded, BudgetManager, Config, Quota, Quotas, RunBudget, Usage
from otelbudget.engine.engine import Engine
from otelbudget.ledger.ledger import Ledger
from otelbudget.runs.reservation import Reservation

RESOURCES: Final = ("steps", "tokens")
SHARES: Final = {"high": 0.25, "normal": 0.25}
LEFT: Final = {"low": 0.5, "normal": 0.75, "high": 1.0}
PER_S: Final = {"minute": 60, "hour": 3600, "rolling 1m": 60, "rolling 2m": 120}
#: How old a hold gets at most: a store takes back what nobody renews.
OLD_S: Final = 50


def rule(name: str, per: str, *, shares: bool = False, **limits: int) -> Quota:
    return Quota(name=name, per=per, reserve_for=SHARES if shares else None, **limits)  # type: ignore[arg-type]


ORG: Final = (rule("org", "hour", tokens=60_000),)
TENANT: Final = (
    rule("shares", "minute", tokens=1200, steps=60, shares=True),
    rule("tokens", "minute", tokens=800),
    rule("rolling", "rolling 2m", tokens=1800, steps=100, shares=True),
    rule("steps", "minute", steps=24),
    rule("rolling steps", "rolling 2m", steps=44),
)
USER: Final = (rule("user", "rolling 1m", tokens=600, shares=True), rule("user tokens", "rolling 1m", tokens=400))
USERS: Final = ("ann", "bob")

Amounts = tuple[int, int]


class Charge(NamedTuple):
    at_s: float
    amounts: Amounts


@dataclass
class Account:
    """What one owner has used and holds in windows of one kind."""

    per: str
    rules: list[Quota]
    charges: list[Charge] = field(default_factory=list)
    held: list[Charge] = field(default_factory=list)

    def used(self, i: int, now_s: float) -> int:
        return sum(one.amounts[i] for one in self.charges if self.counts(one.at_s, now_s))

    def taken(self, i: int, now_s: float) -> int:
        held = (one.amounts[i] for one in self.held if self.rolls or self.counts(one.at_s, now_s))
        return self.used(i, now_s) + sum(held)

    @property
    def rolls(self) -> bool:
        return self.per.startswith("rolling")

    def counts(self, at_s: float, now_s: float) -> bool:
        length_ms = PER_S[self.per] * 1000
        if self.rolls:
            return round(at_s * 1000) * 60 // length_ms >= round(now_s * 1000) * 60 // length_ms - 60
        return round(at_s * 1000) // length_ms == round(now_s * 1000) // length_ms

    def limits(self, i: int, priority: str) -> Iterator[tuple[str, int]]:
        """(rule, what it leaves to *priority*) of all rules that limit a resource."""
        for one in self.rules:
            limit = getattr(one, RESOURCES[i])
            if limit is not None:
                yield str(one.name), int(limit * LEFT[priority]) if one.reserve_for else limit


def accounts_of(rules: tuple[Quota, ...]) -> list[Account]:
    return [Account(per, [one for one in rules if one.per == per]) for per in dict.fromkeys(one.per for one in rules)]


class Model:
    """All accounts; what may be done, and what is left, is added up again each time."""

    def __init__(self) -> None:
        shared = accounts_of(ORG) + accounts_of(TENANT)
        self.accounts = {user: shared + accounts_of(USER) for user in USERS}

    def refusal(self, user: str, priority: str, asked: Amounts, now_s: float) -> tuple[Any, ...] | None:
        """(reason, rule, resource, used, reserved, limit) of what refuses; what is used decides before what is held."""
        busy = []
        for account in self.accounts[user]:
            for i, more in enumerate(asked):
                used, taken = account.used(i, now_s), account.taken(i, now_s)
                over = [(name, limit) for name, limit in account.limits(i, priority) if more and taken + more > limit]
                if over:
                    name, limit = next((one for one in over if used + more > one[1]), over[0])
                    reason = "limit" if used + more > limit else "busy"
                    found = (reason, name, RESOURCES[i], used, taken - used, limit)
                    if reason == "limit":
                        return found
                    busy.append(found)
        return busy[0] if busy else None

    def left(self, user: str, priority: str, now_s: float) -> list[int]:
        return [
            min(
                max(0, limit - account.taken(i, now_s))
                for account in self.accounts[user]
                for _, limit in account.limits(i, priority)
            )
            for i in range(len(RESOURCES))
        ]

    def hold(self, user: str, held: Charge) -> None:
        for account in self.accounts[user]:
            account.held.append(held)

    def settle(self, user: str, held: Charge, actual: Amounts, now_s: float) -> None:
        """A hold ends in the window that it was made in; what rolls counts from now."""
        for account in self.accounts[user]:
            account.held.remove(held)
            account.charges.append(Charge(now_s if account.rolls else held.at_s, actual))

    def record(self, user: str, actual: Amounts, now_s: float) -> None:
        for account in self.accounts[user]:
            account.charges.append(Charge(now_s, actual))

    def tidy(self, now_s: float) -> None:
        for account in {id(one): one for each in self.accounts.values() for one in each}.values():
            account.charges = [one for one in account.charges if now_s - one.at_s < 2 * PER_S[account.per]]


def refused_or_held(run: Any, asked: Amounts) -> tuple[Any, ...] | Reservation:
    try:
        held: Reservation = run.reserve(steps=asked[0], tokens=asked[1])
    except BudgetExceeded as error:
        return error.reason, error.budget, error.resource, error.used, error.reserved, error.limit
    return held


def manager_of(kind: str, clock: Clock, folder: Path) -> BudgetManager:
    """A manager that counts in the process itself (``none``) or in a store."""
    config = Config(quotas=Quotas(org=ORG, default=TENANT, users={"*": USER}))
    store = None if kind == "none" else STORES[kind](clock, folder)
    engine = Engine(config, ledger=Ledger(clock_s=clock), store=store, clock_ns=lambda: round(clock.now_s * 1e9))
    # Between two answers of a server its time goes on by the real clock, which this one stands for.
    engine.ledger.clock_s = engine.directory.clock_s = clock
    return BudgetManager(engine=engine)


def compare(kind: str, seed: int, trips: int, folder: Path) -> set[str]:
    """Make *trips* random requests; gives what has been refused for which reason by which rule."""
    rng, clock, model, seen = random.Random(seed), Clock(NOON_S), Model(), set()
    manager = manager_of(kind, clock, folder)
    opened: list[tuple[str, Charge, Reservation]] = []
    with ExitStack() as blocks:
        blocks.callback(manager.engine.close)
        runs = {
            (user, priority): blocks.enter_context(
                manager.run(RunBudget(), user=user, priority=priority, mode="detached", reraise=False)
            )
            for user in USERS
            for priority in LEFT
        }
        for at in range(trips):
            (user, priority), asked = rng.choice(list(runs)), (rng.randint(0, 3), rng.choice((0, 1, 20, 90, 250)))
            run = runs[user, priority]
            now_s = clock.now_s
            act = rng.choices(("reserve", "settle", "record", "wait"), (40, 30, 5, 25))[0]
            if act == "reserve" and any(asked):
                expected, found = model.refusal(user, priority, asked, now_s), refused_or_held(run, asked)
                if isinstance(found, Reservation):
                    opened.append((user, Charge(now_s, asked), found))
                    model.hold(user, opened[-1][1])
                    found = None
                assert found == expected, f"seed {seed}, trip {at}"
                seen |= {f"{expected[0]} {expected[1]}"} if expected else {"admitted"}
            elif act == "settle" and opened:
                end(opened.pop(rng.randrange(len(opened))), model, rng, now_s)
            elif act == "record":
                run.record(Usage(input_tokens=asked[1], output_tokens=0, steps=asked[0]))
                model.record(user, asked, now_s)
            elif act == "wait":
                by_s = rng.choice((0.001, 0.25, 1, 2, 7, 7, 20))
                while opened and now_s + by_s - opened[0][1].at_s > OLD_S:
                    end(opened.pop(0), model, rng, now_s)
                clock.advance(by_s)
                model.tidy(clock.now_s)
            left = run.remaining(fresh=True)
            expected_left = model.left(user, priority, clock.now_s)
            assert [left[name] for name in RESOURCES] == expected_left, f"seed {seed}, trip {at}"
        while opened:
            end(opened.pop(), model, rng, clock.now_s)
    return seen


def end(one: tuple[str, Charge, Reservation], model: Model, rng: random.Random, now_s: float) -> None:
    user, charge, held = one
    steps, tokens = charge.amounts
    if rng.random() < 0.3:
        held.release()
        actual = (0, 0)
    else:
        actual = (steps, rng.choice((0, tokens // 2, tokens, tokens + 30)))
        held.commit(Usage(input_tokens=actual[1], output_tokens=0, steps=steps))
    model.settle(user, charge, actual, now_s)


NAMES: Final = {"shares", "tokens", "rolling", "steps", "rolling steps", "user", "user tokens"}
KINDS: Final = ("none", "memory", "sqlite", "redis")


@pytest.mark.parametrize("kind", KINDS)
def test_runs_are_admitted_and_refused_by_the_same_rules_wherever_quotas_are_counted(kind: str, tmp_path: Path) -> None:
    assert compare(kind, 1, 600, tmp_path) >= {"admitted", "limit user", "busy user"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(10, 14))
def test_ten_thousand_requests_end_the_same(kind: str, seed: int, tmp_path: Path) -> None:
    seen = compare(kind, seed, 2500, tmp_path)
    assert {f"limit {name}" for name in NAMES} <= seen, sorted(seen)
