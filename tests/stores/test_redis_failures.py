"""A server that is killed, stopped, started anew, or hangs up: bounded refusals, and nothing that was spent is lost."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from traceback import format_exception
from typing import Any

import pytest
from cutting_proxy import CuttingProxy
from redis_server import RedisServer
from shared_kit import Place, await_until, state, wait_until
from store_kit import Caller, lifetime, limit

import otelbudget
from otelbudget import BudgetExceeded, Quota, Quotas, QuotaService, RunBudget, StoreError, Usage
from otelbudget.config import StoreConfig
from otelbudget.stores.base import Override, Reset
from otelbudget.stores.redis import RedisStore

pytestmark = pytest.mark.slow
TIMEOUT_S = 0.2


@pytest.fixture(autouse=True)
def _off() -> Iterator[None]:
    yield
    otelbudget.shutdown()
    gc.collect()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that may be ill-treated."""
    one = RedisServer(tmp_path)
    yield one
    one.go_on()
    one.kill()


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[CuttingProxy]:
    one = CuttingProxy(server.port)
    yield one
    one.close()


def opened(port: int, folder: Path, *, timeout_s: float = TIMEOUT_S) -> QuotaService:
    store = StoreConfig(f"redis://127.0.0.1:{port}/0", timeout_s=timeout_s)
    quotas = Quotas(default=[Quota(tokens=1000, tool_calls=9, per="lifetime", name="q")])
    return QuotaService(store=Place("none", folder).setup(quotas, store=store))


def unavailable(ask: Callable[[], Any], within_s: float = 5) -> None:
    began_s = time.monotonic()
    with pytest.raises(BudgetExceeded, match="can't be reached") as stopped:
        ask()
    assert stopped.value.reason == "store_unavailable"
    assert time.monotonic() - began_s < within_s


def away(server: RedisServer, how: str) -> Callable[[], None]:
    """Make it go away; gives what brings it back."""
    if how == "killed":
        server.kill()
        return server.start
    server.pause()
    return server.go_on


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_while_the_server_is_away_requests_are_refused_in_time_and_what_is_spent_waits(
    server: RedisServer, tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    service = opened(server.port, tmp_path)
    with otelbudget.run(RunBudget(max_tokens=500), reraise=False) as run:
        held = [run.reserve(tokens=10) for _ in range(3)]
        back = away(server, how)
        unavailable(lambda: run.reserve(tokens=10))
        unavailable(lambda: run.check(tokens=10))
        unavailable(run.tool_call("search").__enter__)
        held[0].commit(Usage(tokens=7))
        held[1].release()
        run.record(Usage(tokens=100))
        with pytest.raises(StoreError):
            run.remaining(fresh=True)
        back()
        wait_until(lambda: state(service) == (107, 10, 883))
        run.reserve(tokens=400 - 10 - 107 + 100).release()
    assert sum(record.getMessage().startswith("the redis store can't be reached") for record in caplog.records) == 1


@pytest.mark.parametrize("how", ["killed", "stopped"])
async def test_coroutines_are_refused_in_time_and_never_block_their_loop(
    server: RedisServer, tmp_path: Path, how: str
) -> None:
    service = opened(server.port, tmp_path, timeout_s=1)
    slowest_s = 0.0

    async def tick() -> None:
        nonlocal slowest_s
        while True:
            before_s = time.monotonic()
            await asyncio.sleep(0.005)
            slowest_s = max(slowest_s, time.monotonic() - before_s)

    async def ask(run: Any) -> str:
        with pytest.raises(BudgetExceeded) as stopped:
            await run.areserve(tokens=10)
        return stopped.value.reason

    async with otelbudget.run(reraise=False) as run:
        held = await run.areserve(tokens=10)
        back = away(server, how)
        ticking = asyncio.create_task(tick())
        began_s = time.monotonic()
        assert set(await asyncio.gather(*(ask(run) for _ in range(50)))) == {"store_unavailable"}
        assert time.monotonic() - began_s < 5  # all of them together
        await held.acommit(Usage(tokens=8))
        run.record(Usage(tokens=5))
        assert not await run.acan_proceed()
        ticking.cancel()
        back()
        await await_until(lambda: state(service) == (13, 0, 987))
    assert slowest_s < 0.9


@pytest.mark.parametrize("cuts", [1, 2, 5])
def test_a_reply_that_is_cut_off_charges_once(
    server: RedisServer, proxy: CuttingProxy, tmp_path: Path, cuts: int
) -> None:
    """One cut is not even noticed, since the same id is sent again at once."""
    service = opened(proxy.port, tmp_path, timeout_s=5)
    with otelbudget.run(reraise=False) as run:
        for _ in range(3):
            held = run.reserve(tokens=10)
            proxy.cuts = cuts
            held.commit(Usage(tokens=7))
            proxy.cuts = 0
        proxy.cuts = cuts
        if cuts == 1:
            run.reserve(tokens=10).release()
        else:
            unavailable(lambda: run.reserve(tokens=10))
        proxy.cuts = 0
    wait_until(lambda: state(service) == (21, 0, 979))


@pytest.mark.parametrize("cuts", [1, 2])
async def test_the_same_for_coroutines_that_share_a_connection(
    server: RedisServer, proxy: CuttingProxy, cuts: int
) -> None:
    store = RedisStore(f"redis://127.0.0.1:{proxy.port}", timeout_s=5)
    caller = Caller(RedisStore(server.url, timeout_s=5))
    ended = [
        otelbudget.stores.base.Settle(f"{i}", "acme", (lifetime(),), (0,) * 7, (0, 1, 0, 0, 0, 0, 0), (0,) * 7)
        for i in range(30)
    ]
    await store.asettle(ended[0])
    proxy.cuts = cuts
    answers = await asyncio.gather(*map(store.asettle, ended), return_exceptions=True)
    assert {type(answer).__name__ for answer in answers} == ({"Settled"} if cuts == 1 else {"StoreError"})
    again = await asyncio.gather(*map(store.asettle, ended))
    assert {answer.was for answer in again} == {"settled"}
    assert caller.state() == (30, 30)
    store.close()
    caller.store.close()


def test_idle_connections_of_a_server_that_was_started_anew_fail_nobody(server: RedisServer, tmp_path: Path) -> None:
    service = opened(server.port, tmp_path, timeout_s=5)
    with otelbudget.run() as run:
        threads = [threading.Thread(target=lambda: run.reserve(tokens=1).commit()) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        server.kill()
        server.start()
        run.reserve(tokens=1).commit()
    assert state(service) == (9, 0, 991)


def test_setting_up_before_the_server_is_there_is_one_warning(
    server: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.kill()
    service = opened(server.port, tmp_path)
    assert [record.levelno for record in caplog.records if "can't be reached yet" in record.getMessage()] == [
        logging.WARNING
    ]
    with otelbudget.run(reraise=False) as run:
        unavailable(lambda: run.reserve(tokens=1))
        server.start()
        run.reserve(tokens=1).commit()
    assert state(service) == (1, 0, 999)


def test_a_slow_server_delays_and_loses_nothing(server: RedisServer, tmp_path: Path) -> None:
    service = opened(server.port, tmp_path)
    with otelbudget.run(RunBudget(max_tokens=30), reraise=False) as run:
        for _ in range(5):
            server.pause()
            unavailable(lambda: run.reserve(tokens=30))
            server.go_on()
        wait_until(lambda: state(service) == (0, 0, 1000))
        run.reserve(tokens=30).commit()
    assert state(service) == (30, 0, 970)


def test_an_error_that_the_server_answers_is_one_of_the_store(server: RedisServer) -> None:
    caller = Caller(RedisStore(server.url, timeout_s=5))
    server.ask("SET", "ob:{acme}:holds", "a string")
    with pytest.raises(StoreError, match="WRONGTYPE") as failed:
        caller.reserve("a", 1, lifetime(limits=limit(5)))
    assert type(failed.value.__cause__).__module__.startswith("redis")
    with pytest.raises(StoreError, match="WRONGTYPE"):
        asyncio.run(caller.store.aread("acme", (lifetime(),)))  # type: ignore[arg-type]
    caller.store.close()


def test_shutting_down_hangs_up_in_the_middle_of_a_trip(server: RedisServer, tmp_path: Path) -> None:
    opened(server.port, tmp_path, timeout_s=30)
    with otelbudget.run() as run:
        held = run.reserve(tokens=10)
    server.pause()
    settling = threading.Thread(target=held.commit)
    settling.start()
    time.sleep(0.1)
    began_s = time.monotonic()
    otelbudget.shutdown()
    assert time.monotonic() - began_s < 4
    settling.join(5)
    assert not settling.is_alive()


@pytest.mark.parametrize("on_error", ["fail_open", "local_fallback"])
@pytest.mark.parametrize("how", ["killed", "stopped"])
async def test_a_policy_decides_while_the_server_is_away(
    server: RedisServer, tmp_path: Path, on_error: str, how: str
) -> None:
    store = StoreConfig(server.url, timeout_s=TIMEOUT_S, on_error=on_error, fallback_share=0.05)
    quotas = Quotas(default=[Quota(tokens=1000, per="day", name="q")])
    service = QuotaService(store=Place("none", tmp_path).setup(quotas, store=store))
    async with otelbudget.run(reraise=False) as run:
        held = await run.areserve(tokens=10)
        back = away(server, how)
        await (await run.areserve(tokens=50)).acommit(Usage(tokens=45))
        await held.acommit(Usage(tokens=5))
        if on_error == "local_fallback":
            with pytest.raises(BudgetExceeded):
                await run.areserve(tokens=1)
        else:
            (await run.areserve(tokens=5000)).release()
        back()
        await asyncio.to_thread(wait_until, lambda: state(service) == (50, 0, 950))


# --- what a server refuses says what to do


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (("REPLICAOF", "127.0.0.1", "1"), r"read only replica; the address is a replica's: name its master"),
        (("CONFIG", "SET", "requirepass", "s3cr3t"), r"[^.]; the address says who: redis://user:password@host"),
        (("CONFIG", "SET", "maxmemory", "1"), r"'maxmemory'; raise that"),
    ],
)
def test_a_server_that_is_set_up_wrongly_is_named_with_what_to_do(
    server: RedisServer, tmp_path: Path, harm: tuple[str, ...], says: str
) -> None:
    server.ask(*harm)
    service = opened(server.port, tmp_path)
    with pytest.raises(BudgetExceeded, match=rf"store redis://127\.0\.0\.1:{server.port}/0: .*{says}"):
        service.reserve("acme", 1)


async def test_a_password_is_in_no_error_of_a_server_that_does_not_know_what_it_is_for(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, "--rename-command", "AUTH", "")
    store = RedisStore(f"redis://ada:s3cr3t@127.0.0.1:{server.port}/0", timeout_s=5)
    try:
        with pytest.raises(StoreError, match=r"unknown command 'AUTH'$") as first:
            store.read("acme", ())
        with pytest.raises(StoreError, match=r"unknown command 'AUTH'$") as second:
            await store.aread("acme", ())
        assert "s3cr3t" not in "".join(format_exception(first.value) + format_exception(second.value))
    finally:
        store.close()
        server.kill()


def test_a_user_without_rights_is_told_all_that_he_needs(server: RedisServer) -> None:
    store = RedisStore(f"redis://ada:s3cr3t@127.0.0.1:{server.port}/1", timeout_s=5)
    rights = ["on", ">s3cr3t", "+ping"]
    for _ in range(2):
        server.ask("ACL", "SETUSER", "ada", *rights)
        try:
            store.configure("acme", "k", Override("rules"))
        except StoreError as error:
            rights = str(error).partition(" its user needs ")[2].split()
    assert Caller(store).reserve("a", 1).refused is None
    assert Caller(store).settle("a", 1).was == "open"
    assert [one.used[1] for one in store.accounts("acme")] == [1]
    assert store.overrides("acme") == {"k": Override("rules")}
    store.configure("acme", "life", Reset())
    store.close()
