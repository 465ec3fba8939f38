from __future__ import annotations

import gc

from otelbudget import Config
from otelbudget.engine.engine import Engine
from otelbudget.ledger.ledger import Account, Hold
from otelbudget.model.amounts import UNLIMITED, Amounts
from otelbudget.stores.memory import MemoryStore

SECOND = 10**9


class Owner:
    """Keeps a hold alive, as a reservation does."""


def opened(store: MemoryStore, owner: Owner, now_s: float = 0, on_expiry: int = 0) -> tuple[Account, Hold]:
    account = Account((UNLIMITED, 100, *(UNLIMITED,) * 5))
    hold = Hold((account,), Amounts(0, 60), on_expiry=Amounts(0, on_expiry))
    with store.lock:
        store.register(hold, owner, int(now_s * SECOND))
    return account, hold


def sweep(store: MemoryStore, now_s: float) -> list[Hold]:
    with store.lock:
        return [hold for hold, _ in store.sweep(int(now_s * SECOND))]


def test_a_hold_whose_owner_lives_is_never_reclaimed() -> None:
    store, owner = MemoryStore(ttl_s=60), Owner()
    account, hold = opened(store, owner)
    for now_s in (64, 66, 1000, 10**6):
        assert sweep(store, now_s) == []
    assert (hold.state, account.reserved[1]) == ("open", 60)


def test_a_lost_hold_comes_back_after_ttl_and_grace_and_charges_what_it_stored() -> None:
    store, owner = MemoryStore(ttl_s=60), Owner()
    account, hold = opened(store, owner, on_expiry=7)
    del owner
    gc.collect()
    assert sweep(store, 64.9) == []
    assert sweep(store, 65) == [hold]
    assert (hold.state, account.reserved[1], account.used[1]) == ("expired", 0, 7)
    assert sweep(store, 10**6) == []


def test_an_owner_that_dies_after_a_renewal_gives_back_one_ttl_later() -> None:
    store, owner = MemoryStore(ttl_s=60), Owner()
    _, hold = opened(store, owner)
    assert sweep(store, 100) == []
    del owner
    gc.collect()
    assert sweep(store, 164) == []
    assert sweep(store, 165) == [hold]


def test_open_holds_are_counted_with_the_age_of_the_oldest() -> None:
    store, owner = MemoryStore(), Owner()
    assert store.open_holds(5) == (0, 0.0)
    opened(store, owner, now_s=1)
    _, second = opened(store, owner, now_s=3)
    assert store.open_holds(4 * SECOND) == (2, 3.0)
    with store.lock:
        store.settle(second, Amounts(0, 1), "committed")
    assert store.open_holds(4 * SECOND) == (1, 3.0)


def test_a_hold_that_was_settled_while_it_was_being_renewed_is_not_settled_again() -> None:
    store, owner = MemoryStore(ttl_s=60), Owner()
    account, hold = opened(store, owner)

    def look() -> Owner:  # the garbage collector may end a stream at this very moment
        if hold.state == "open":
            store.settle(hold, Amounts(0, 5), "committed")
        return owner

    hold.owner = look
    assert sweep(store, 100) == []
    hold.owner = lambda: None
    assert sweep(store, 1000) == []
    assert (account.used[1], account.reserved[1], store.open_holds(0)) == (5, 0, (0, 0.0))


def test_whoever_waits_is_told_of_what_comes_back_by_any_way() -> None:
    store, owner = MemoryStore(ttl_s=60), Owner()
    told: list[str] = []
    store.wakers.add(lambda: told.append("settled"))
    _, hold = opened(store, owner)
    assert told == []
    with store.lock:
        store.settle(hold, Amounts(), "released")
    assert told == ["settled"]
    opened(store, Owner())
    gc.collect()
    assert len(sweep(store, 70)) == 1
    assert told == ["settled"] * 2


def test_holds_without_a_run_expire_quietly_on_an_engines_store() -> None:
    engine = Engine(Config())
    account, _ = opened(engine.store, Owner(), on_expiry=3)
    gc.collect()
    with engine.lock:
        engine.sweep(engine.store.ttl_ns)
    assert (account.used[1], account.reserved[1]) == (3, 0)
