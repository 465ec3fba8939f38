"""Accounts and holds. An account counts what one owner has used and taken in one window; rules limit it.

Changed only by `Ledger`, with its lock held. Amounts of all resources are one integer each, see `model.vector`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, NamedTuple

from otelbudget.ledger.rules import Rule, limits_of
from otelbudget.model.amounts import NOTHING, Amounts
from otelbudget.model.levels import Where
from otelbudget.model.quota import PRIORITIES
from otelbudget.model.vector import GUARDS, SHIFTS, greater, lane, step, unpack
from otelbudget.model.windows import Window, WindowSpec

Key = tuple[Where, WindowSpec, float]
HoldState = Literal["new", "open", "committed", "released", "expired"]
#: The index of normal priority.
NORMAL: Final = PRIORITIES.index("normal")


class Crossing(NamedTuple):
    """A threshold that a charge has reached."""

    account: Account
    rule: Rule
    resource: int
    ratio: float


def crossings(account: Account, before: int, after: int) -> list[Crossing]:
    """The thresholds that lie above *before* and not above *after*."""
    if not (after + account.limits.mark) & GUARDS:  # it reaches none at all
        return []
    return [
        Crossing(account, rule, i, ratio)
        for rule in account.rules
        for i in range(len(SHIFTS))
        for ratio, mark in rule.marks(i)
        if step(before, i) < mark <= lane(after, i)  # below 0 where it was reset meanwhile
    ]


class Account:
    """What one run has used and taken, against its budget; `QuotaAccount` is that of everybody else.

    Attributes:
        used: What was charged, by this one and its shared and carved children.
        taken: Used and held.
        below: The part of `used` that child runs spent.
        floor: What the runs above count of it at least, since it was carved out of them.
        holds: How many holds are open on it.
        rules, limits: What limits it.
        mark: Spares looking for thresholds that are not reached, see `marked`.
    """

    __slots__ = ("below", "floor", "holds", "limits", "mark", "rules", "taken", "used")
    scope: str = "run"
    #: Whose it is; None for a run.
    where: Any = None
    #: Where it is noted what a shared store says: of what is used, and of what is taken.
    noted: ClassVar = ("used", "taken")
    #: What a shared store calls it, and the window there: (key, start_s, end_s, rolling); None if nobody asked yet.
    there: tuple[str, int, int, bool] | None = None
    dropped = False
    keep: Callable[[], None]
    #: Of a rolling window: its length, and what was charged when, by number of the bucket. 0 and None for all others.
    rolling_s: int = 0
    buckets: dict[int, int] | None = None

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self.used = self.taken = self.below = self.floor = self.holds = 0
        self.rules = rules
        self.limits = limits_of(rules)
        self.mark = self.limits.mark

    @property
    def rule(self) -> Rule:
        """The first rule: a run's budget."""
        return self.rules[0]

    @property
    def name(self) -> str | None:
        """The name of its first rule."""
        return self.rules[0].name if self.rules else None

    def own(self) -> list[int]:
        """What was used here and not below."""
        return unpack(self.used - self.below)

    @property
    def holding(self) -> int:
        """What is held, a vector; of a run that several processes share, what they hold in all."""
        return self.taken - self.used

    def reserved(self, resource: int) -> int:
        """What is held of one resource."""
        return step(self.holding, resource)


class SharedAccount(Account):
    """What a run that several processes share has used: as its store has last said, and at least what this one has.

    Attributes:
        tally: What this process holds and charges; an account that limits nothing.
        heard_used, heard_taken: What the store has said.
    """

    __slots__ = ("heard_taken", "heard_used", "tally", "there")
    noted = ("heard_used", "heard_taken")

    def __init__(self, rules: tuple[Rule, ...]) -> None:  # what the base has as attributes is worked out here
        self.tally = Account(())
        self.heard_used = self.heard_taken = self.floor = 0
        self.there = None
        self.rules = rules
        self.limits = limits_of(rules)
        self.mark = self.limits.mark

    @property
    def used(self) -> int:  # type: ignore[override]  # nobody sets it
        """What was charged, by all processes."""
        return greater(self.heard_used, self.tally.used)

    @property
    def taken(self) -> int:  # type: ignore[override]
        """Used and held, by all processes."""
        return greater(greater(self.heard_taken, self.tally.taken), self.used)

    @property
    def below(self) -> int:  # type: ignore[override]
        """The part of `used` that child runs in this process spent."""
        return self.tally.below

    @property
    def holds(self) -> int:  # type: ignore[override]
        """How many holds of this process are open on it."""
        return self.tally.holds

    @property
    def holding(self) -> int:  # as the store has said
        """What is held, a vector."""
        return self.heard_taken - self.heard_used


class QuotaAccount(Account):
    """What an organisation, tenant, user, model, agent, conversation or tag has used in one window.

    Attributes:
        where: Whose it is.
        spec: Which kind of window.
        window: That window's name.
        start_s, end_s: Its Unix seconds.
        dropped: Only those who refer to it keep it, until it is charged: nothing was used of it, or nothing counts yet.
    """

    # fmt: off
    __slots__ = (
        "__weakref__", "buckets", "dropped", "end_s", "rolling_s", "scope", "shelf", "spec", "start_s", "there",
        "where", "window",
    )
    # fmt: on

    def __init__(
        self, where: Where, spec: WindowSpec, window: Window, shelf: dict[Key, QuotaAccount] | None = None
    ) -> None:
        super().__init__(())
        self.where: Where = where
        self.scope = where.scope
        self.spec = spec
        self.window, self.start_s, self.end_s = window
        self.shelf = shelf
        self.there = None
        self.rolling_s = spec.rolling_s or 0
        self.buckets: dict[int, int] | None = {} if self.rolling_s else None
        self.dropped = shelf is not None

    @property
    def key(self) -> Key:
        """Which account it is, among all."""
        return self.where, self.spec, self.start_s

    def keep(self) -> None:
        """Put it where it is kept, since it is charged."""
        if self.shelf is not None:
            self.shelf[self.key] = self
        self.dropped = False


class Refusal(NamedTuple):
    """Why a request does not fit, with the numbers of that moment."""

    account: Account
    rule: Rule
    resource: int
    used: int
    reserved: int
    limit: int
    asked: int
    busy: bool


#: What refuses a request that comes inside another operation of its own thread: it is worth trying again at once.
INSIDE: Final = Refusal(Account(()), Rule(None, ((), (), ()), ()), 0, 0, 0, 0, 0, busy=True)


@dataclass(slots=True, eq=False, weakref_slot=True)
class Hold:
    """Amounts held on several accounts until they are settled.

    Attributes:
        payer: Who asked for it.
        accounts: From the widest scope to the leaf.
        amounts, vector: What is held on each.
        on_expiry: What an expiry charges.
        counts: The counters of that: (cell, slot, by how much).
        opened_ns: When it was admitted.
        expires_ns: When it may be reclaimed if nobody holds on to it.
        state: ``new`` until it is admitted, ``open`` until it is settled, once.
        owner: A weak reference to what keeps it alive.
        priority: An index into `PRIORITIES`.
        wrapping: The account that judges its growth by full limits, or None.
        permit: The permit to wrap up that its call has used, or None.
        paid: The usage that it was charged for, as the caller gave it.
        trip: What a shared store holds for it, or None.
    """

    payer: Any = None
    accounts: tuple[Account, ...] = ()
    amounts: Amounts = NOTHING
    vector: int = 0
    on_expiry: Amounts = NOTHING
    counts: Sequence[tuple[Any, str, int]] = ()
    opened_ns: int = 0
    expires_ns: int = 0
    state: HoldState = "new"
    owner: Any = None
    priority: int = NORMAL
    wrapping: Account | None = None
    permit: Any = None
    paid: Any = None
    trip: Any = None
