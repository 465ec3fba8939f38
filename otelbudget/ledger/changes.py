"""Changes of accounts and holds that are made all at once or not at all.

A signal handler may raise between any two bytecodes, and it may itself reserve or charge. So a change is planned on
drafts first, which nobody sees, and then made by one call into C, which nothing interrupts. If what it was planned on
has changed in between, nothing is made and it is planned again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, starmap
from operator import add, ge, neg, setitem, sub
from typing import Any, TypeVar

from otelbudget.ledger.account import ZEROS, Account, Hold, HoldState
from otelbudget.ledger.carves import any_carved, on_each
from otelbudget.ledger.thresholds import Crossing, armed, crossed_by
from otelbudget.model.amounts import Amounts

__all__ = ["Change", "at_once"]

_ALL = slice(None)
_T = TypeVar("_T")


class _Draft:
    """What an account is to be. Its lists are replaced and never changed in place."""

    __slots__ = ("account", "below", "marks", "reserved", "used")

    def __init__(self, account: Account, used: list[int], reserved: list[int]) -> None:
        self.account = account
        self.used = used
        self.reserved = reserved
        self.below = account.below
        self.marks = account.marks

    @property
    def scope(self) -> str:
        return self.account.scope

    @property
    def carved(self) -> Sequence[int] | None:
        return self.account.carved


class Change:
    """A change to be. Everything is called with the store's lock held; nothing happens before `apply`."""

    __slots__ = ("_drafts", "_items", "_live", "_sets", "_was")

    def __init__(self) -> None:
        self._drafts: dict[Account, _Draft] = {}
        self._live: list[list[int]] = []
        self._was: list[list[int]] = []
        self._sets: list[tuple[Any, str, Any]] = []
        self._items: list[tuple[Any, Any, Any]] = []

    def watch(self, accounts: Sequence[Account]) -> list[_Draft]:
        """Their drafts. If one of *accounts* changes from now on, `apply` does nothing."""
        drafts = self._drafts
        found: list[_Draft] = []
        for account in accounts:
            draft = drafts.get(account)
            if draft is None:
                if account.reserved is ZEROS:
                    own = list(ZEROS)
                    # One step without a call: a hold that nests here has made it a list already.
                    account.reserved = own if account.reserved is ZEROS else account.reserved
                reserved = account.reserved
                assert isinstance(reserved, list)
                used, held = account.used[:], reserved[:]
                draft = drafts[account] = _Draft(account, used, held)
                self._live += (account.used, reserved)
                self._was += (used, held)
            found.append(draft)
        return found

    def set(self, changed: object, name: str, value: object) -> None:
        """Give *changed* an attribute."""
        self._sets.append((changed, name, value))

    def put(self, mapping: Any, key: object, value: object) -> None:
        """Put *value* into a mapping whose keys need no Python code to be compared."""
        self._items.append((mapping, key, value))

    def hold(self, accounts: Sequence[Account], amounts: Sequence[int]) -> None:
        """Hold *amounts* more, which may be negative."""
        drafts = self.watch(accounts)
        if any_carved(accounts):
            self._hold_each(drafts, on_each(drafts, amounts))
            return
        for draft in drafts:
            draft.reserved = list(map(add, draft.reserved, amounts))

    @staticmethod
    def _hold_each(drafts: Sequence[_Draft], each: Sequence[Sequence[int]]) -> None:
        for draft, amounts in zip(drafts, each, strict=True):
            draft.reserved = list(map(add, draft.reserved, amounts))

    def charge(self, accounts: Sequence[Account], actual: Sequence[int]) -> list[Crossing]:
        """Add *actual* to every account, limits or not; gives the thresholds crossed by it."""
        drafts = self.watch(accounts)
        if any_carved(accounts):
            self._hold_each(drafts, on_each(drafts, ZEROS, actual))
        return self._add(drafts, actual)

    @staticmethod
    def _add(drafts: Sequence[_Draft], actual: Sequence[int]) -> list[Crossing]:
        crossed: list[Crossing] = []
        leaf = drafts[-1] if drafts else None
        for draft in drafts:
            used = draft.used = list(map(add, draft.used, actual))
            if any(map(ge, used, draft.marks)):
                for i, amount in enumerate(actual):
                    if amount and used[i] >= draft.marks[i]:
                        more, draft.marks = crossed_by(draft.account, i, used[i], draft.marks)
                        crossed += more
            if draft is not leaf and draft.account.scope == "run":
                draft.below = list(actual) if draft.below is None else list(map(add, draft.below, actual))
        return crossed

    def note(self, account: Account, actual: Sequence[int], now_s: float) -> None:
        """Let a rolling window remember when *actual* was charged to it."""
        if account.buckets is not None and any(actual):
            buckets = account.buckets.copy()
            buckets.add(actual, now_s)
            self.set(account, "buckets", buckets)

    def forget_old(self, account: Account, now_s: float) -> None:
        """Take what has fallen out of a rolling window out of what is used."""
        assert account.buckets is not None
        (draft,) = self.watch((account,))
        buckets = account.buckets.copy()
        gone = buckets.fallen_out(now_s)
        self.set(account, "buckets", buckets)
        if gone is not None:
            draft.used = list(map(sub, draft.used, gone))
            draft.marks = armed(account, draft.used)

    def settle(self, held: Hold, actual: Sequence[int], state: HoldState) -> list[Crossing]:
        """End an open hold in *state*: return what it held, charge *actual*; gives the thresholds crossed."""
        accounts, amounts = held.accounts, held.amounts
        self._sets.append((held, "state", state))
        if any_carved(accounts):
            self.hold(accounts, list(map(neg, amounts)))
            return self.charge(accounts, actual)
        drafts = self.watch(accounts)
        for draft in drafts:
            draft.reserved = list(map(sub, draft.reserved, amounts))
        return self._add(drafts, actual)

    def resize(self, held: Hold, amounts: Amounts, joining: Sequence[Account] = ()) -> None:
        """Make an open hold exactly *amounts*, on the quotas *joining* too."""
        self.hold(held.accounts, list(map(sub, amounts, held.amounts)))
        self.set(held, "amounts", amounts)
        if joining:
            self.hold(joining, amounts)
            runs = [account for account in held.accounts if account.scope == "run"]
            quotas = [account for account in held.accounts if account.scope != "run"]
            self.set(held, "accounts", (*quotas, *joining, *runs))

    def apply(self) -> bool:
        """Make it, unless an account has changed since it was planned on it: then nothing happens, and it is False."""
        items, sets = self._items, self._sets
        was = iter(self._was)
        for draft, used, reserved in zip(self._drafts.values(), was, was, strict=True):
            account = draft.account
            if draft.reserved is not reserved:
                held = draft.reserved
                items.append((account.reserved, _ALL, held))
                sets.append((account, "room", list(map(sub, account.limits, held)) if any(held) else account.limits))
            if draft.used is not used:
                items.append((account.used, _ALL, draft.used))
                if draft.marks is not account.marks:
                    sets.append((account, "marks", draft.marks))
                if draft.below is not account.below:
                    sets.append((account, "below", draft.below))
        steps = chain(starmap(setitem, items), starmap(setattr, sets))
        if self._live != self._was:
            return False
        any(steps)  # runs them all, as each gives None: one call, in which no signal handler runs
        return True


def at_once(plan: Callable[[Change], _T]) -> _T:
    """Make what *plan* puts into the change that it is called with, which may be more than once; gives its result."""
    while True:
        change = Change()
        result = plan(change)
        if change.apply():
            return result
