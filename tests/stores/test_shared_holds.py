"""Holds in a shared store: under one key there is one, an expired one is held anew, and one moves to other quotas."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from shared_kit import PRICES, Place, await_until, state

import otelbudget
from otelbudget import BudgetExceeded, Config, Quota, Quotas, QuotaService, RunBudget, StoreError, Usage
from otelbudget.calls.model_call import ModelRequest, abegin, begin
from otelbudget.config import Estimates
from otelbudget.stores import shared


@pytest.fixture(params=["memory", "sqlite", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    yield Place(request.param, tmp_path)
    otelbudget.shutdown()
    gc.collect()


def call(input_tokens: int = 5, output_tokens: int = 50) -> ModelRequest:
    return ModelRequest(
        provider="openai", operation="chat", model="demo", input_tokens=input_tokens, max_output_tokens=output_tokens
    )


def backing() -> Any:
    """What the manager calls the store."""
    return otelbudget.setup().engine.store.store


# --- keys


async def test_nobody_is_given_what_the_store_refuses_to_who_asked_first_under_a_key(place: Place) -> None:
    place.quota(steps=1)
    with otelbudget.run(reraise=False) as run:
        run.record(Usage(tokens=1))
        asked = [asyncio.ensure_future(_keyed(run)) for _ in range(5)]
        assert [type(one) for one in await asyncio.gather(*asked, return_exceptions=True)] == [BudgetExceeded] * 5


async def _keyed(run: Any) -> Any:
    return await run.areserve(steps=1, idempotency_key="k")


async def test_requests_of_one_moment_under_one_key_are_given_one_reservation(place: Place) -> None:
    service = place.quota(tokens=100)
    with otelbudget.run() as run:
        found = await asyncio.gather(*(_keyed(run) for _ in range(5)))
        assert len({id(one) for one in found}) == 1
        assert found[0].replayed
        await found[0].acommit(Usage(tokens=7))
        await await_until(lambda: state(service) == (7, 0, 93))


# --- what has expired in the store


async def test_what_is_committed_right_after_a_release_under_a_key_is_charged(place: Place) -> None:
    service = QuotaService(store=place.setup(Quotas(default=[Quota(tokens=100, per="lifetime")])))
    held = service.reserve("acme", 50, idempotency_key="k")
    held.release()  # both are sent as soon as the loop comes to it
    held.commit(Usage(20, 10))
    await asyncio.sleep(0.1)
    assert service.usage("acme").tokens == 30


def test_a_stream_whose_hold_has_expired_grows_by_the_limit(place: Place) -> None:
    service = place.quota(tokens=1000)
    with otelbudget.run(reraise=False) as run:
        streaming = begin(call())
        assert streaming is not None
        place.clock.by_s += 100
        others = run.reserve(tokens=600)
        streaming.grow(60)
        assert state(service)[:2] == (5, 600 + 50 + 256)
        with pytest.raises(BudgetExceeded):
            streaming.grow(5000)
        others.release()
        streaming.commit(Usage(input_tokens=5, output_tokens=60))
    assert state(service) == (65, 0, 935)


def test_a_stream_whose_hold_has_expired_is_cut_where_others_hold_the_rest(place: Place) -> None:
    service = place.quota(tokens=1000)
    with otelbudget.run(reraise=False) as run:
        streaming = begin(call())
        assert streaming is not None
        place.clock.by_s += 100
        others = run.reserve(tokens=990)
        for _ in range(2):
            with pytest.raises(BudgetExceeded) as stopped:
                streaming.grow(100)
            assert stopped.value.reason == "busy"
        streaming.unknown(80)
        others.release()
    assert state(service) == (85, 0, 915)


def test_a_reservation_that_has_expired_is_extended_and_charged_once(place: Place) -> None:
    service = place.quota(tokens=1000)
    with otelbudget.run() as run:
        held = run.reserve(tokens=100)
        place.clock.by_s += 100
        assert state(service) == (0, 0, 1000)
        held.extend(tokens=50)
        assert state(service) == (0, 150, 850)
        held.commit(Usage(tokens=120))
    assert state(service) == (120, 0, 880)


@pytest.mark.parametrize("key", [None, "job"])
@pytest.mark.parametrize(("end", "used"), [("release", (0, 0)), ("failed", (1, 0)), ("commit", (1, 15))])
def test_a_call_that_takes_over_a_reservation_that_has_expired_is_charged_what_it_used(
    place: Place, key: str | None, end: str, used: tuple[int, int]
) -> None:
    service = place.quota(tokens=1000, steps=10)
    with otelbudget.run(shared=True) as run, run.reserve(tokens=100, **({"idempotency_key": key} if key else {})) as r:
        place.clock.by_s += 100
        assert state(service) == (0, 0, 1000)
        asked = begin(call())
        assert asked is not None
        asked.commit(Usage(5, 10)) if end == "commit" else getattr(asked, end)()
        r.release()
        assert (state(service, "steps")[0], *state(service)[:2]) == (*used, 0)
    assert (state(service, "steps")[0], *state(service)[:2]) == (*used, 0)


def test_what_expired_in_a_window_that_has_ended_grows_no_more(place: Place) -> None:
    service = place.quota(tokens=1000, per="minute")
    with otelbudget.run(reraise=False) as run:
        held = run.reserve(tokens=100)
        place.clock.by_s += 100
        assert state(service) == (0, 0, 1000)
        with pytest.raises(BudgetExceeded) as stopped:
            held.extend(tokens=50)
        assert (stopped.value.reason, held.held["tokens"]) == ("store_unavailable", 100)
        held.commit()


# --- quotas that are known late


@pytest.mark.parametrize("tokens", [50, 500])
def test_a_guard_inside_a_span_without_a_model_asks_the_models_quota(place: Place, tokens: int) -> None:
    quotas = Quotas(
        default=[Quota(tokens=1000, per="lifetime")], models={"demo": [Quota(tokens=200, per="lifetime", name="mq")]}
    )
    service = QuotaService(store=place.setup(quotas))
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(otelbudget.setup())
    tracer = provider.get_tracer("instrumentation")
    told = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai"}
    with otelbudget.run(reraise=False), tracer.start_as_current_span("chat", attributes=told):
        if tokens == 500:
            with pytest.raises(BudgetExceeded) as stopped:
                begin(call(tokens))
            assert stopped.value.budget == "mq"
        else:
            inside = begin(call(tokens))
            assert inside is not None
            assert state(service) == (0, 100, 900)
            inside.commit(Usage(input_tokens=50, output_tokens=20))
    used = 70 if tokens == 50 else 0
    assert state(service) == (used, 0, 1000 - used)


# --- what is known here of the store


@pytest.mark.parametrize("end", ["commit", "release"])
def test_what_is_left_is_known_without_asking_once_a_hold_has_ended(place: Place, end: str) -> None:
    place.quota(tokens=1000)
    with otelbudget.run() as run:
        kept = run.reserve(tokens=30)
        held = run.reserve(tokens=900)
        if end == "commit":
            held.commit(Usage(tokens=10))
        else:
            held.release()
        left = run.remaining()
        assert left["tokens"] == (960 if end == "commit" else 970)
        assert left == run.remaining(fresh=True)
        kept.release()


def test_a_threshold_is_told_of_what_had_expired(place: Place) -> None:
    service = place.quota(tokens=1000, thresholds=(0.8,))
    with otelbudget.run() as run:
        held = run.reserve(tokens=900)
        place.clock.by_s += 100
        assert state(service) == (0, 0, 1000)
        held.commit()
    assert [one["otelbudget.ratio"] for one in place.events("otelbudget.threshold")] == [0.8]


def test_a_threshold_is_told_of_what_is_charged_by_an_answer_that_was_lost(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = place.quota(tokens=1000, thresholds=(0.8,))
    settle, asked = backing().settle, []

    def lost(ended: Any) -> Any:
        answer = settle(ended)
        asked.append(ended)
        if len(asked) == 1:
            raise StoreError("no answer")
        return answer

    monkeypatch.setattr(backing(), "settle", lost)
    with otelbudget.run() as run:
        run.record(Usage(tokens=900))
        assert state(service) == (900, 0, 100)
    assert [one["otelbudget.ratio"] for one in place.events("otelbudget.threshold")] == [0.8]


# --- what waits


async def test_what_another_thread_sends_meanwhile_disturbs_no_coroutine(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = place.quota(tokens=1000)
    store = otelbudget.setup().engine.store
    asettle = backing().asettle

    async def raced(ended: Any) -> Any:
        sending = threading.Thread(target=store._retry, kwargs={"flying": True})
        sending.start()
        sending.join()
        return await asettle(ended)

    monkeypatch.setattr(backing(), "asettle", raced)
    with otelbudget.run() as run:
        for _ in range(3):
            run.record(Usage(tokens=5))
        (await run.areserve(tokens=5)).release()
        await await_until(lambda: state(service) == (15, 0, 985))


def test_a_settlement_that_fails_otherwise_keeps_no_other_waiting(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shared, "RETRY_S", 0.01)
    service = place.quota(tokens=1000)
    settle, broken = backing().settle, []

    def fails(ended: Any) -> Any:
        if any(broken) and ended.actual[1] == 7:
            raise ValueError("never")
        if any(broken):
            raise StoreError("away")
        return settle(ended)

    monkeypatch.setattr(backing(), "settle", fails)
    with otelbudget.run() as run:
        run.reserve(tokens=1).release()  # the thread is there
        broken.append(True)
        for tokens in (7, 8):
            with caplog.at_level(logging.ERROR), contextlib.suppress(ValueError):
                run.record(Usage(tokens=tokens))
        until_s = time.monotonic() + 5
        while otelbudget.setup().engine.store.health.lost == 0 and time.monotonic() < until_s:
            time.sleep(0.01)
        broken.clear()
        assert state(service) == (8, 0, 992)
    assert "was given up" in caplog.text


@pytest.mark.parametrize("around", [{}, {"tokens": 60}])
@pytest.mark.parametrize("shared", [False, True])
async def test_a_call_is_lowered_to_what_the_store_has_left(place: Place, around: dict[str, Any], shared: bool) -> None:
    quotas = Quotas(models={"demo": [Quota(tokens=1000 if shared else 95, per="lifetime")]})
    place.setup(Config(quotas=quotas, prices=PRICES, estimates=Estimates(clamp=True)))
    request = replace(call(40, 60), lowerable=True)
    with otelbudget.run(RunBudget(max_tokens=95) if shared else None, shared=shared, reraise=False) as run:
        other = run.reserve(tokens=25, model="demo")
        with run.reserve(**around) if around else contextlib.nullcontext():
            admitted = await abegin(request)
        assert admitted is not None
        assert admitted.max_output_tokens == 30
        admitted.commit(Usage(40, 20))
        with pytest.raises(BudgetExceeded):  # 10 are left, which is less than is worth it
            begin(request)
        other.release()
        assert run.usage.tokens == 60


def test_what_the_store_refuses_and_nobody_heeds_is_charged_what_it_used(place: Place) -> None:
    quotas = Quotas(default=[Quota(tokens=30, per="lifetime")])
    service = QuotaService(store=place.setup(quotas, enforce=False))
    with otelbudget.run():
        never_sent, sent = begin(call(40, 60)), begin(call(40, 60))
        assert never_sent is not None
        assert sent is not None
        for one in (never_sent, sent):
            one.grow(300)  # beyond what it holds: it grows, here alone
            one.grow(600)
        never_sent.release()
        assert service.usage("default").tokens == 0
        sent.commit(Usage(input_tokens=20, output_tokens=10))
    assert service.usage("default").tokens == 30
