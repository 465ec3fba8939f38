"""Random trips on every store and on the plain model: every decision and every number is the same."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from store_kit import DAY_S, NOON_S, STORES, Clock
from store_model import ModelStore

from otelbudget import IdempotencyError
from otelbudget.stores.base import FOREVER_S, MARK_S, Line, Override, Reserve, Reset, Settle, Store, WrongWindow
from otelbudget.stores.records import RunRecord

OTHERS = [name for name in STORES if name not in ("model", "lease")]
SHARDS = ("one", "two")
#: (key, kind): every account that trips can be about, widest first.
ACCOUNTS = (
    ("org", "life"),
    ("tenant", "day"),
    ("user", "minute"),
    ("model", "rolling 60"),
    ("agent", "rolling 7"),
    ("tag", "rolling 7200"),
)
#: What may be used at most, of each resource, by each priority.
LIMITS = {
    "low": (40, 300, -1, 200, 5_000, 10, 0),
    "normal": (60, 400, 350, -1, 8_000, -1, 3),
    "high": (-1, 500, 450, 300, 10_000, 15, 5),
}
#: What a further rule on the same account allows.
RULES = ((20, -1, -1, 250, -1, 6, -1), (-1, 200, -1, -1, 3_000, -1, -1))
KEPT = 15


class Walk:
    """One seed's sequence of trips, and the holds that it remembers."""

    def __init__(self, seed: int, clock: Clock) -> None:
        self.rng = random.Random(seed)
        self.clock = clock
        self.made: list[Reserve] = []
        self.trips = self.first = 0
        self.stepped_s = 0.0

    def next(self) -> Callable[[Store], Any]:
        """Something that a store is asked to do."""
        self.trips += 1
        self.tick()
        ways = {
            self.new: 30,
            self.again: 4,
            self.resize: 12,
            self.end: 24,
            self.record: 4,
            self.read: 5,
            self.renew: 5,
            self.configure: 12,
            self.run: 8,
        }
        return self.rng.choices(tuple(ways), tuple(ways.values()))[0]()

    def tick(self) -> None:
        """Let time pass; now and then a lot of it, or set the clock, ahead and later back again."""
        if self.stepped_s and self.rng.random() < 0.2:
            self.clock.advance(-self.stepped_s)
            self.stepped_s = 0.0
        elif not self.stepped_s and self.rng.random() < 0.01:
            self.stepped_s = self.rng.choice((-150, -30, -5, 5, 45, 130, 9_000, 2 * DAY_S, 400 * DAY_S))
            self.clock.advance(self.stepped_s)
            if self.stepped_s >= MARK_S:  # marks may be gone by then
                self.made, self.first = [], self.trips
        self.clock.advance(self.rng.choice((0, 0, 0.001, 0.25, 1, 1.5, 3)) if self.rng.random() < 0.98 else 70)

    def lines(self, priority: str) -> tuple[Line, ...]:
        """Some accounts, in the windows of now, or rarely of another time."""
        at_s = self.clock.now_s + self.rng.choices((0, -60, 60, DAY_S), (97, 1, 1, 1))[0]
        chosen = sorted(self.rng.sample(range(len(ACCOUNTS)), self.rng.randint(1, 5)))
        return tuple(self.line(*ACCOUNTS[i], at_s, self.limits(priority)) for i in chosen)

    def limits(self, priority: str) -> tuple[int, ...]:
        """What one or two rules on an account leave to *priority*: the least of each resource."""
        rules = [LIMITS[priority], *self.rng.choices((LIMITS[priority], *RULES), k=1)]
        return tuple(min((most for most in each if most >= 0), default=-1) for each in zip(*rules, strict=True))

    @staticmethod
    def line(key: str, kind: str, at_s: float, limits: tuple[int, ...]) -> Line:
        if kind.startswith("rolling"):
            return Line(key, 0, int(kind.split()[1]), True, limits)
        length_s = {"day": DAY_S, "minute": 60, "life": FOREVER_S}[kind]
        start_s = int(at_s // length_s) * length_s
        return Line(key, start_s, start_s + length_s, False, limits)

    def amounts(self) -> tuple[int, ...]:
        most = (4, 60, 50, 40, 900, 2, 1)
        return tuple(self.rng.randint(0, top) if self.rng.random() < 0.7 else 0 for top in most)

    def known(self) -> Reserve:
        """A hold of before, ended or not."""
        return self.rng.choice(self.made) if self.made else self.make()

    def make(self) -> Reserve:
        lines, amounts = self.lines(self.rng.choice(tuple(LIMITS))), self.amounts()
        on_expiry = tuple(self.rng.randint(0, amount) for amount in amounts)
        ttl_s, digest = self.rng.choice((5.0, 20.0, 60.0)), self.rng.choice(("", "d a", "d a", "d a"))
        id, shard = f"h{self.rng.random():.3f} {self.trips}", self.rng.choice(SHARDS)
        asked = Reserve(id, shard, lines, amounts, (0,) * 7, on_expiry, ttl_s, digest)
        self.made = [*self.made[-KEPT:], asked]
        return asked

    def new(self) -> Callable[[Store], Any]:
        asked = self.make()
        return lambda store: store.reserve(asked)

    def again(self) -> Callable[[Store], Any]:
        asked = self.known()
        asked = asked._replace(digest=self.rng.choice((asked.digest, "d b", "d b", "other a")))
        return lambda store: store.reserve(asked)

    def resize(self) -> Callable[[Store], Any]:
        before = self.known()
        priority = self.rng.choice(tuple(LIMITS))
        lines = tuple(line._replace(limits=self.limits(priority)) for line in before.lines)
        asked = before._replace(lines=lines, held=before.amounts, amounts=self.amounts())
        return lambda store: store.reserve(asked)

    def end(self) -> Callable[[Store], Any]:
        hold = self.known()
        actual = self.amounts() if self.rng.random() < 0.7 else (0,) * 7
        digest = self.rng.choice(("", "d a", "d b", "other a"))
        ended = Settle(hold.id, hold.shard, hold.lines, hold.amounts, actual, hold.on_expiry, digest)
        return lambda store: store.settle(ended)

    def record(self) -> Callable[[Store], Any]:
        id, lines = f"r{max(self.first, self.trips - self.rng.choice((0, 0, 3)))}", self.lines("low")
        ended = Settle(
            id,
            self.rng.choice(SHARDS),
            lines,
            (0,) * 7,
            self.amounts(),
            (0,) * 7,
            self.rng.choice(("", "", "d a", "d b")),
        )
        return lambda store: store.settle(ended)

    def read(self) -> Callable[[Store], Any]:
        shard, lines = self.rng.choice(SHARDS), self.lines("low")
        return lambda store: store.read(shard, lines)

    def renew(self) -> Callable[[Store], Any]:
        ids = [one.id for one in self.made if self.rng.random() < 0.5]
        shard, ttl_s = self.rng.choice(SHARDS), self.rng.choice((5.0, 60.0))
        return lambda store: store.renew(shard, ids, ttl_s)

    def configure(self) -> Callable[[Store], Any]:
        shard, (key, _) = self.rng.choice(SHARDS), self.rng.choice(ACCOUNTS)
        change = self.rng.choice((Reset(), Reset(), Override(f"{self.trips}"), None))
        return lambda store: store.configure(shard, key, change)

    def run(self) -> Callable[[Store], Any]:
        """Look at a run, or open or change it, perhaps after somebody else has."""
        shard, run_id = self.rng.choice(SHARDS), f"{self.rng.randint(1, 3)}"
        record = RunRecord(f"opened {self.trips}", f"state {self.trips}", self.rng.choice((0, 0, 1, 1, 2, 3)))
        written = self.rng.choice((record, record, None))
        return lambda store: store.run(shard, run_id, written)


def outcome(trip: Callable[[Store], Any], store: Store) -> Any:
    try:
        return trip(store)
    except (WrongWindow, IdempotencyError) as error:
        return type(error)


def everything(store: Store, shard: str) -> Any:
    """All accounts that are not empty, and all rules."""
    accounts = [one for one in store.accounts(shard) if any(one.used) or any(one.taken)]
    return accounts, dict(store.overrides(shard))


def compare(name: str, seed: int, trips: int, folder: Path) -> dict[str, int]:
    """Do *trips* on a store and the model; gives how often what happened, so that a test can see that it did."""
    clock = Clock(NOON_S + 0.5)
    walk = Walk(seed, clock)
    store, model = STORES[name](clock, folder), ModelStore(clock)
    seen: dict[str, int] = {}
    try:
        for at in range(trips):
            trip = walk.next()
            expected = outcome(trip, model)
            assert outcome(trip, store) == expected, f"seed {seed}, trip {at}"
            for sort in sorts(expected):
                seen[sort] = seen.get(sort, 0) + 1
            if at % 50 == 0:
                for shard in SHARDS:
                    assert everything(store, shard) == everything(model, shard), f"seed {seed}, trip {at}"
    finally:
        store.close()
    return seen


def sorts(answer: Any) -> list[str]:
    if isinstance(answer, type):
        return [answer.__name__]
    if isinstance(answer, RunRecord):
        return ["run changed"] if answer.changes else ["run opened"]
    if hasattr(answer, "was"):
        return [answer.was]
    if hasattr(answer, "gone"):
        names = {
            "gone": answer.gone,
            "replayed": answer.replayed,
            "busy": answer.busy,
            "limit": answer.refused is not None and not answer.busy,
        }
        return [name for name, holds in names.items() if holds] or ["admitted"]
    return []


ALL_SORTS = {"admitted", "busy", "limit", "gone", "open", "expired", "unknown", "settled", "WrongWindow"}
ALL_SORTS |= {"run opened", "run changed"}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("seed", range(4))
def test_random_trips_end_the_same_on_every_store(name: str, seed: int, tmp_path: Path) -> None:
    seen = compare(name, seed, 600, tmp_path)
    assert set(seen) >= ALL_SORTS, seen


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("seed", range(110, 120))
def test_many_more_random_trips_end_the_same(name: str, seed: int, tmp_path: Path) -> None:
    seen = compare(name, seed, 1_000, tmp_path)
    assert set(seen) >= {*ALL_SORTS, "IdempotencyError", "replayed"}, seen
