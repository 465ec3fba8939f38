"""One idempotency key, several processes of one store: one hold, one charge, and an error for anything else."""

from __future__ import annotations

import asyncio
import gc
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from shared_kit import PRICES, Place, state

from otelbudget import (
    BudgetExceeded,
    BudgetManager,
    Config,
    IdempotencyError,
    Quota,
    Quotas,
    QuotaService,
    RunBudget,
    StoreError,
    Usage,
)
from otelbudget.calls.model_call import ModelRequest, begin
from otelbudget.config import StoreConfig
from otelbudget.engine import context as contexts
from otelbudget.engine.engine import Engine
from otelbudget.ledger.ledger import Ledger

QUOTAS = Quotas(default=[Quota(tokens=100, per="lifetime", name="q")])


@pytest.fixture(params=["sqlite", "sqlite with leases", "redis", "redis with leases"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    found = Place(request.param.split()[0], tmp_path)
    found.lease = 0.1 if "leases" in request.param else 0.0  # type: ignore[attr-defined]
    return found


@pytest.fixture
def manager(place: Place) -> Iterator[Callable[..., BudgetManager]]:
    """Makes managers as processes of one store have them."""
    made: list[BudgetManager] = []

    def one(quotas: Quotas = QUOTAS, **options: Any) -> BudgetManager:
        store = StoreConfig(place.url, lease=place.lease, **options)  # type: ignore[attr-defined]
        made.append(BudgetManager(Config(quotas=quotas, prices=PRICES, store=store)))
        return made[-1]

    yield one
    for each in made:
        contexts.deactivate(each.engine)
        each.shutdown()
    gc.collect()


@pytest.fixture
def here(manager: Callable[..., BudgetManager]) -> QuotaService:
    return QuotaService(store=manager())


@pytest.fixture
def there(manager: Callable[..., BudgetManager]) -> QuotaService:
    return QuotaService(store=manager())


def seen(service: QuotaService) -> tuple[int, int]:
    """Tokens used and held, as the store says."""
    return state(service, tenant="acme")[:2]


def test_a_reservation_is_held_once_whoever_asks_and_charged_once(here: QuotaService, there: QuotaService) -> None:
    first, second = (service.reserve("acme", 60, idempotency_key="job") for service in (here, there))
    assert (first.replayed, second.replayed, second.settled) == (False, True, False)
    assert seen(here) == (0, 60)
    second.commit(50)
    first.commit(50)
    assert seen(there) == (50, 0)


def test_what_is_settled_is_given_as_settled_and_charges_nothing_more(here: QuotaService, there: QuotaService) -> None:
    here.reserve("acme", 60, idempotency_key="job").commit(50)
    for _ in range(2):
        again = there.reserve("acme", 60, idempotency_key="job")
        assert (again.replayed, again.settled, again.held) == (True, True, {})
        assert again.commit(70).replayed
        assert not again.release()
    with there.reserve("acme", 60, idempotency_key="job"):
        pass
    assert seen(there) == (50, 0)


def test_another_payload_or_operation_is_an_error_that_names_the_key(here: QuotaService, there: QuotaService) -> None:
    here.reserve("acme", 60, idempotency_key="job")
    here.consume_quota("acme", 5, idempotency_key="charge")
    wrong: list[Callable[[], object]] = [
        lambda: there.reserve("acme", 61, idempotency_key="job"),
        lambda: there.consume_quota("acme", 60, idempotency_key="job"),
        lambda: there.consume_quota("acme", 6, idempotency_key="charge"),
        lambda: there.consume_quota("acme", 5, cost_usd=1, idempotency_key="charge"),
        lambda: there.reserve("acme", 5, idempotency_key="charge"),
    ]
    for ask in wrong:
        with pytest.raises(IdempotencyError, match=r"the key '(job|charge)'"):
            ask()
    assert seen(there) == (5, 60)
    assert there.usage("acme").tokens == 5
    assert there.reserve("acme", 60, idempotency_key="job").replayed
    assert not there.reserve("rival", 61, idempotency_key="job").replayed  # it is the tenant's


def test_a_charge_is_made_once(here: QuotaService, there: QuotaService) -> None:
    for service in (here, there, here, there):
        service.consume_quota("acme", 5, idempotency_key="charge")
        service.consume_quota("acme", Usage(3, 1, model="demo"), user="ann", idempotency_key="usage")
    assert seen(there) == (9, 0)


def test_a_refusal_leaves_no_key_behind(here: QuotaService, there: QuotaService) -> None:
    with here.reserve("acme", 60) as held:
        for amount in (50, 70):
            with pytest.raises(BudgetExceeded):
                here.reserve("acme", amount, idempotency_key="job")
        held.release()
    assert not there.reserve("acme", 70, idempotency_key="job").replayed
    assert seen(here) == (0, 70)


def test_what_was_released_is_held_anew_by_whoever_takes_it_up(here: QuotaService, there: QuotaService) -> None:
    first = here.reserve("acme", 60, idempotency_key="job")
    first.release()
    second = there.reserve("acme", 60, idempotency_key="job")
    assert (second.replayed, second.settled, seen(there)) == (False, False, (0, 60))
    second.commit(50)
    first.commit(40)  # late, and second
    assert seen(here) == (50, 0)


def test_a_key_finds_its_hold_with_another_user_and_model(here: QuotaService, there: QuotaService) -> None:
    here.reserve("acme", 60, idempotency_key="job")
    again = there.reserve("acme", 60, "high", user="ann", model="demo", idempotency_key="job")
    assert again.replayed
    again.commit(50)
    assert seen(there) == (50, 0)


def test_a_reservation_that_grew_stays_as_large_for_all(here: QuotaService, there: QuotaService) -> None:
    first = here.reserve("acme", 60, idempotency_key="job")
    first.extend(tokens=20)
    assert there.reserve("acme", 60, idempotency_key="job").replayed
    assert seen(there) == (0, 80)
    first.commit()
    assert seen(there) == (80, 0)


def test_a_reservation_of_nothing_is_asked_of_the_store_as_it_grows(here: QuotaService, there: QuotaService) -> None:
    others = there.reserve("acme", 90)
    first = here.reserve("acme", 0, steps=0, idempotency_key="job")
    with pytest.raises(BudgetExceeded):
        first.extend(tokens=20)
    assert seen(there) == (0, 90)
    others.release()
    first.extend(tokens=20)
    assert there.reserve("acme", 0, steps=0, idempotency_key="job").replayed
    assert seen(there) == (0, 20)
    first.commit()
    assert seen(there) == (20, 0)


def test_processes_that_share_a_run_share_its_keys(manager: Callable[..., BudgetManager]) -> None:
    opened, other = manager(), manager()
    with opened.run(RunBudget(max_tokens=100), tenant="acme", shared=True) as run:
        with other.continue_run(run.run_id) as there:
            run.reserve(tokens=40, idempotency_key="job").commit(Usage(tokens=30))
            assert run.record(Usage(tokens=5), idempotency_key="told").replayed is False
            assert there.record(Usage(tokens=5), idempotency_key="told").replayed is True
            assert asyncio.run(there.arecord(Usage(tokens=5), idempotency_key="told")).replayed
            again = there.reserve(tokens=40, idempotency_key="job")
            assert (again.replayed, again.settled) == (True, True)
            with pytest.raises(IdempotencyError):
                asyncio.run(there.arecord(Usage(tokens=6), idempotency_key="told"))
            with pytest.raises(IdempotencyError):
                asyncio.run(_areserve(there))
            assert (there.remaining(fresh=True)["tokens"], there.usage.tokens) == (65, 35)
        assert run.usage.tokens == 35
    with opened.run(tenant="acme") as one, other.run(tenant="acme") as two:  # not shared: each has keys of its own
        assert not one.record(Usage(tokens=5), idempotency_key="told").replayed
        assert not two.record(Usage(tokens=5), idempotency_key="told").replayed


async def _areserve(run: Any) -> Any:
    return await run.areserve(tokens=41, idempotency_key="job")


def test_a_retry_takes_over_what_a_process_that_was_killed_has_held(
    place: Place, manager: Callable[..., BudgetManager]
) -> None:
    code = f"""
        import os, signal
        from otelbudget import Quota, QuotaService
        from otelbudget.config import StoreConfig
        store = StoreConfig({place.url!r}, lease={place.lease!r})
        service = QuotaService(Quota(tokens=100, per="lifetime", name="q"), store=store)
        held = service.reserve("acme", 60, idempotency_key="job")
        os.kill(os.getpid(), signal.SIGKILL)
    """  # type: ignore[attr-defined]
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False, timeout=30)
    assert done.returncode == -signal.SIGKILL
    service = QuotaService(store=manager())
    assert seen(service) == (0, 60)
    again = service.reserve("acme", 60, idempotency_key="job")
    assert (again.replayed, again.settled, seen(service)) == (True, False, (0, 60))
    again.commit(50)
    assert seen(service) == (50, 0)


def test_a_reserve_whose_answer_was_lost_is_held_once_and_is_this_ones_own(
    here: QuotaService, there: QuotaService, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = here._engine.store.store
    store = getattr(store, "_store", store)

    def lost(asked: Any) -> Any:
        type(store).reserve(store, asked)
        raise StoreError("the answer was lost")

    monkeypatch.setattr(store, "reserve", lost)
    with pytest.raises(BudgetExceeded, match="the answer was lost"):
        here.reserve("acme", 60, idempotency_key="job")
    monkeypatch.undo()
    again = here.reserve("acme", 60, idempotency_key="job")
    assert (again.replayed, seen(here)) == (False, (0, 60))
    assert there.reserve("acme", 60, idempotency_key="job").replayed
    again.commit()
    assert seen(here) == (60, 0)


def test_a_charge_whose_answer_was_lost_is_made_once(
    here: QuotaService, there: QuotaService, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = here._engine.store.store
    store = getattr(store, "_store", store)

    def lost(ended: Any) -> Any:
        type(store).settle(store, ended)
        raise StoreError("the answer was lost")

    monkeypatch.setattr(store, "settle", lost)
    here.consume_quota("acme", 60, idempotency_key="job")
    monkeypatch.undo()
    there.consume_quota("acme", 60, idempotency_key="job")
    assert seen(here) == (60, 0)


@pytest.mark.parametrize("on_error", ["fail_open", "local_fallback"])
def test_what_was_admitted_without_the_store_is_charged_once_when_it_is_back(
    manager: Callable[..., BudgetManager], there: QuotaService, on_error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = QuotaService(store=manager(on_error=on_error, fallback_share=1.0))

    def away(_: Any) -> Any:
        raise StoreError("away")

    for name in ("reserve", "settle"):
        monkeypatch.setattr(here._engine.store.store, name, away)
    held = here.reserve("acme", 60, idempotency_key="job")
    assert here.reserve("acme", 60, idempotency_key="job") is held
    here.consume_quota("acme", 5, idempotency_key="charge")
    held.commit(50)
    there.reserve("acme", 60, idempotency_key="job").commit(50)
    there.consume_quota("acme", 5, idempotency_key="charge")
    monkeypatch.undo()
    assert seen(here) == (55, 0)


def test_what_a_process_spent_under_a_key_that_another_took_meanwhile_is_charged_and_is_in_nobodys_way(
    manager: Callable[..., BudgetManager], there: QuotaService, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = QuotaService(store=manager(on_error="fail_open"))

    def away(_: Any) -> Any:
        raise StoreError("away")

    for name in ("reserve", "settle"):
        monkeypatch.setattr(here._engine.store.store, name, away)
    held = here.reserve("acme", 20, idempotency_key="job")
    here.consume_quota("acme", 5, idempotency_key="charge")
    there.reserve("acme", 30, idempotency_key="job").commit(30)
    there.consume_quota("acme", 6, idempotency_key="charge")
    monkeypatch.undo()
    here.reserve("rival", 1).commit(1)
    held.commit(20)
    assert seen(here) == (20 + 5 + 30 + 6, 0)
    with pytest.raises(IdempotencyError):
        there.consume_quota("acme", 5, idempotency_key="charge")


def asked_of_a_model() -> Any:
    found = begin(ModelRequest(provider="demo", operation="chat", model="demo", input_tokens=10, max_output_tokens=10))
    assert found is not None
    return found


def test_a_process_that_takes_up_a_run_twice_is_told_what_it_did_under_a_key_before(
    manager: Callable[..., BudgetManager],
) -> None:
    opened, other = manager(), manager()
    with opened.run(RunBudget(max_tokens=100), tenant="acme", shared=True) as run:
        with other.continue_run(run.run_id) as one, other.continue_run(run.run_id) as two:
            assert not one.reserve(tokens=40, idempotency_key="job").replayed
            again = two.reserve(tokens=40, idempotency_key="job")
            assert (again.replayed, again.settled) == (True, False)
            again.commit(Usage(tokens=30))
            assert not one.record(Usage(tokens=5), idempotency_key="told").replayed
        with other.continue_run(run.run_id) as later:
            assert later.record(Usage(tokens=5), idempotency_key="told").replayed
            assert later.remaining(fresh=True)["tokens"] == 65
            assert later.usage.tokens == 35


def test_calls_that_two_processes_make_under_one_key_are_both_charged(manager: Callable[..., BudgetManager]) -> None:
    opened, other = manager(), manager()
    opening = opened.run(RunBudget(max_tokens=100), tenant="acme", shared=True)
    with opening as run, run.reserve(tokens=40, idempotency_key="job"):
        contexts.activate(opened.engine)
        call = asked_of_a_model()
        with other.continue_run(run.run_id) as there, there.reserve(tokens=40, idempotency_key="job") as again:
            contexts.activate(other.engine)
            asked_of_a_model().commit(Usage(8, 7))
        assert again.replayed
        call.commit(Usage(10, 5))
        assert run.remaining(fresh=True)["tokens"] == 100 - 2 * 15


def test_a_commit_after_the_guarded_call_of_its_block_has_failed_is_charged_under_a_key_too(
    manager: Callable[..., BudgetManager],
) -> None:
    one = manager()
    with one.run(RunBudget(max_tokens=100), tenant="acme", shared=True) as run:
        contexts.activate(one.engine)
        with run.reserve(tokens=40, idempotency_key="job") as held:
            asked_of_a_model().failed()
            held.commit(Usage(20, 10))
        assert run.usage.tokens == 30
        assert seen(QuotaService(store=one)) == (30, 0)


def test_what_expired_under_a_guarded_call_and_is_held_anew_under_its_key_is_charged_once(place: Place) -> None:
    config = Config(quotas=Quotas(default=[Quota(tokens=1_000, per="lifetime")]), prices=PRICES)
    manager = BudgetManager(engine=Engine(config, ledger=Ledger(clock_s=place.clock), store=place.store()))
    with manager.run(RunBudget(max_tokens=1_000), tenant="acme", shared=True) as run:
        contexts.activate(manager.engine)
        with run.reserve(tokens=40, idempotency_key="job"):
            call = asked_of_a_model()
            place.clock.by_s += 100
            assert seen(QuotaService(store=manager)) == (10, 0)  # its input, as of a call that nobody hears of
            call.grow(25)
            call.commit(Usage(10, 30))
        assert (run.usage.steps, seen(QuotaService(store=manager))) == (1, (40, 0))
    contexts.deactivate(manager.engine)
    manager.engine.close()


async def test_of_coroutines_in_two_processes_one_holds(manager: Callable[..., BudgetManager]) -> None:
    one, two = manager(), manager()
    opened = one.run(RunBudget(max_tokens=100), tenant="acme", shared=True)
    async with opened as run, two.continue_run(run.run_id) as there:
        asked = [each.areserve(tokens=60, idempotency_key="k") for each in (run, there, run, there)]
        found = await asyncio.gather(*asked)
        assert len(set(map(id, found))) == 2
        assert (await run.aremaining(fresh=True))["tokens"] == 40
        for held in found:
            await held.acommit(Usage(tokens=50))
        await asyncio.sleep(0.1)
        assert (await run.aremaining(fresh=True))["tokens"] == 50


@pytest.mark.slow
def test_processes_that_do_the_same_jobs_at_the_same_time_are_charged_for_each_once(
    place: Place, manager: Callable[..., BudgetManager]
) -> None:
    code = f"""
        import random
        from concurrent.futures import ThreadPoolExecutor
        from otelbudget import BudgetExceeded, Quota, QuotaService
        from otelbudget.config import StoreConfig
        service = QuotaService(Quota(tokens=20_000, per="lifetime", name="q"),
                               store=StoreConfig({place.url!r}, lease={place.lease!r}, timeout_s=5))
        def job(n):
            service.consume_quota("acme", 10, idempotency_key=f"charge {{n}}")
            held = service.reserve("acme", 100, idempotency_key=f"job {{n}}")
            if not held.settled and random.random() < 0.3:
                held.release()
                held = service.reserve("acme", 100, idempotency_key=f"job {{n}}")
            held.commit(90)
        jobs = [*range(100), *range(100)]
        random.shuffle(jobs)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(job, jobs))
    """  # type: ignore[attr-defined]
    command = [sys.executable, "-c", textwrap.dedent(code)]
    running = [subprocess.Popen(command) for _ in range(4)]
    assert [one.wait(60) for one in running] == [0] * 4
    service = QuotaService(store=manager(Quotas(default=[Quota(tokens=20_000, per="lifetime", name="q")])))
    assert seen(service) == (100 * (90 + 10), 0)
