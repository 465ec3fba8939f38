"""Accounts of quotas, one per owner and window: what nobody needs is forgotten, what may still be charged is not."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor

from world import used_of

from otelbudget.ledger.account import Hold, QuotaAccount
from otelbudget.ledger.accounts import Accounts
from otelbudget.ledger.ledger import Ledger
from otelbudget.model.amounts import TOKENS, Amounts
from otelbudget.model.levels import Where
from otelbudget.model.vector import pack
from otelbudget.model.windows import WindowSpec

NOW_S = 1_700_000_000.0
DAY_S = 86_400
DAY = WindowSpec("day")
MINE = Where("tenant", ("default", "acme"))


class Kept:
    """The accounts of a ledger whose clock a test sets."""

    def __init__(self) -> None:
        self.now_s = NOW_S
        self.ledger = Ledger(clock_s=lambda: self.now_s)
        self.accounts = Accounts(self.ledger)

    def of(self, where: Where, spec: WindowSpec = DAY) -> QuotaAccount:
        return self.accounts.current(where, spec, self.now_s)

    def charge(self, account: QuotaAccount, tokens: int = 1) -> None:
        self.ledger.charge((account,), pack(Amounts(tokens=tokens)), (), [])

    def visitors(self, number: int) -> None:
        for i in range(number):
            self.of(Where("user", ("default", "acme", f"user-{i}")))


def tokens(account: QuotaAccount) -> int:
    return used_of(account)[TOKENS]


def test_every_owner_and_window_has_one_account() -> None:
    kept = Kept()
    mine = kept.of(MINE)
    assert kept.of(MINE, WindowSpec("day")) is mine
    others = [
        kept.of(MINE, WindowSpec("week")),
        kept.of(MINE, WindowSpec("day", "Asia/Tokyo")),
        kept.of(Where("tenant", ("big", "acme"))),
        kept.of(Where("org", ("default",))),
    ]
    kept.now_s += DAY_S
    others.append(kept.of(MINE))
    assert len({id(one) for one in (mine, *others)}) == 6
    kept.now_s -= DAY_S
    assert kept.of(MINE) is mine


def test_threads_that_ask_for_a_new_account_at_once_get_the_same_one() -> None:
    for i in range(50):
        kept = Kept()
        begun = threading.Barrier(4)

        def charge(_: int, kept: Kept = kept, begun: threading.Barrier = begun) -> None:
            begun.wait()
            kept.charge(kept.of(MINE))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(charge, range(4)))
        assert tokens(kept.of(MINE)) == 4, i


def test_visitors_who_spend_nothing_do_not_fill_the_memory() -> None:
    kept = Kept()
    kept.visitors(5000)
    assert len(list(kept.accounts)) < 1100


def test_what_was_charged_is_kept_while_others_are_forgotten() -> None:
    kept = Kept()
    for i in range(5000):
        kept.charge(kept.of(Where("tenant", ("default", f"tenant-{i}"))))
    assert sum(map(tokens, kept.accounts)) == 5000


def test_an_account_that_somebody_refers_to_is_found_again_before_and_after_its_first_charge() -> None:
    kept = Kept()
    mine = kept.of(MINE)
    kept.visitors(5000)
    assert kept.of(MINE) is mine
    kept.charge(mine)
    del mine
    gc.collect()
    kept.visitors(5000)
    assert tokens(kept.of(MINE)) == 1


def test_an_account_with_an_open_hold_is_kept() -> None:
    kept = Kept()
    hold = Hold(None, (kept.of(MINE),))
    assert kept.ledger.hold(hold, hold, (), 0, []) is None
    del hold
    gc.collect()
    kept.visitors(5000)
    assert MINE in {account.where for account in kept.accounts}


def test_ended_windows_are_kept_a_day_and_those_of_a_minute_two_hours() -> None:
    for spec, kept_s in ((DAY, DAY_S), (WindowSpec("minute"), 128 * 60)):
        kept = Kept()
        kept.charge(kept.of(MINE, spec))
        ends_s = kept.of(MINE, spec).end_s
        for now_s, there in ((ends_s + kept_s - 1, True), (ends_s + kept_s, False)):
            kept.now_s = now_s
            for i in range(3000):
                kept.charge(kept.of(Where("user", ("default", "acme", f"{now_s} {i}"))))
            kept.now_s = NOW_S
            assert tokens(kept.of(MINE, spec)) == there
