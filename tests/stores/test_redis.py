"""What only a Redis store does: commands, keys and their lives, addresses, loops, children."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.crc
from redis_server import RedisServer, empty_server
from shared_kit import Place, state
from store_kit import DAY_S, NOON_S, NOTHING, Caller, Clock, ClockedRedis, day, lifetime, limit, rolling, tokens, vector

import otelbudget
from otelbudget import ConfigError, Quota, Quotas, QuotaService, StoreError, Usage
from otelbudget.config import StoreConfig
from otelbudget.stores import redis_wire
from otelbudget.stores.base import Line, Reserve, Settle
from otelbudget.stores.redis import RedisStore

PASSWORD = "s3cr3t/#?@"
QUOTED = "s3cr3t%2F%23%3F%40"
FIVE = tuple(lifetime(f"{i}", limit(10**6)) for i in range(5))


@pytest.fixture(autouse=True)
def _off() -> Iterator[None]:
    yield
    otelbudget.shutdown()
    gc.collect()


@pytest.fixture
def server() -> RedisServer:
    return empty_server()


@pytest.fixture
def store(server: RedisServer) -> Iterator[RedisStore]:
    one = RedisStore(server.url, timeout_s=5)
    yield one
    one.close()


@pytest.fixture
def clocked(server: RedisServer, clock: Clock) -> Iterator[Caller]:
    """Asks a server whose clock the test sets."""
    one = ClockedRedis(server.url, clock)
    yield Caller(one)
    one.close()


def lives(server: RedisServer) -> dict[str, int]:
    """Key -> seconds it has left; -1 for ever."""
    return {key.decode("utf-8", "replace"): server.ask("TTL", key) for key in server.ask("KEYS", "*")}


# --- trips


def test_a_reserve_and_a_settle_of_five_accounts_are_one_call_each(server: RedisServer, store: RedisStore) -> None:
    caller = Caller(store)
    caller.reserve("first", 1, *FIVE)
    server.ask("CONFIG", "RESETSTAT")
    for i in range(10):
        caller.reserve(f"{i}", 10, *FIVE)
        caller.settle(f"{i}", 7, *FIVE)
    calls = server.calls()
    assert calls["evalsha"] == 20
    assert not {"eval", "script|load", "ping", "select"} & set(calls)


async def test_so_are_those_of_coroutines_through_the_whole_library(server: RedisServer, tmp_path: Path) -> None:
    place = Place("redis", tmp_path)
    one = [Quota(tokens=10_000, per="lifetime"), Quota(tokens=5_000, per="day"), Quota(tokens=900, per="rolling 24h")]
    place.setup(Quotas(org=one[:2], default=one, users={"*": one}), store=server.url)
    async with otelbudget.run(user="u") as run:
        await (await run.areserve(tokens=1)).acommit()
        server.ask("CONFIG", "RESETSTAT")
        for _ in range(10):
            await (await run.areserve(tokens=10)).acommit(Usage(tokens=7))
        assert server.calls()["evalsha"] == 20


async def test_requests_of_one_loop_arrive_in_the_order_of_their_calls(store: RedisStore) -> None:
    line = (lifetime(limits=limit(1)),)
    trips: list[Any] = []
    for i in range(50):
        trips.append(store.areserve(Reserve(f"{i}", "acme", line, tokens(1), NOTHING, NOTHING, 60.0)))
        trips.append(store.asettle(Settle(f"{i}", "acme", line, tokens(1), NOTHING, NOTHING)))
    answers = await asyncio.gather(*trips)
    assert [answer.refused for answer in answers[::2]] == [None] * 50


def test_a_script_that_the_server_has_forgotten_is_sent_again(server: RedisServer, store: RedisStore) -> None:
    async def ask() -> list[Any]:
        asked = Reserve("", "acme", FIVE, tokens(1), NOTHING, NOTHING, 60.0)
        return await asyncio.gather(*(store.areserve(asked._replace(id=f"{i}")) for i in range(5)))

    for _ in range(2):
        server.ask("SCRIPT", "FLUSH")
        assert asyncio.run(ask())[0].refused is None
        server.ask("SCRIPT", "FLUSH")
        Caller(store).record("r", 1)
    assert Caller(store).state(*FIVE) == (0, 5)


def test_however_often_connections_break_new_ones_are_made(server: RedisServer, store: RedisStore) -> None:
    for i in range(110):
        Caller(store).record(f"{i}", 1)
        server.ask("CLIENT", "KILL", "TYPE", "normal")
    assert Caller(store).state() == (110, 110)


def test_the_greatest_sum_stays_and_is_logged_once(store: RedisStore, caplog: pytest.LogCaptureFixture) -> None:
    caller, most, line = Caller(store), 2**53 - 1, lifetime(limits=limit(2**53 - 1))
    for i in range(3):
        caller.record(f"{i}", most, line)
    assert caller.state(line) == (most, most)
    assert caller.reserve("a", 1, line).refused == 0
    assert [record.levelno for record in caplog.records if "2^53 - 1" in record.getMessage()] == [logging.WARNING]


def test_threads_and_tasks_share_one_store_and_spend_a_limit_exactly(store: RedisStore) -> None:
    line = lifetime(limits=limit(200))

    def spend(name: int) -> int:
        caller = Caller(store)
        return sum(caller.reserve(f"{name} {i}", 1, line).refused is None for i in range(40))

    async def aspend(name: int) -> int:
        asked = Reserve("", "acme", (line,), tokens(1), NOTHING, NOTHING, 60.0)
        answers = await asyncio.gather(*(store.areserve(asked._replace(id=f"a{name} {i}")) for i in range(40)))
        return sum(answer.refused is None for answer in answers)

    with ThreadPoolExecutor(8) as pool:
        threads = [pool.submit(spend, i) for i in range(4)]
        loops = [pool.submit(lambda i: asyncio.run(aspend(i)), i) for i in range(4)]
        assert sum(one.result() for one in threads + loops) == 200


# --- the clock is the server's


def test_processes_whose_clocks_differ_share_the_windows_of_the_server(server: RedisServer, clock: Clock) -> None:
    """The server says it is 2024; one process believes it is today, the other that it is an hour before that."""
    clock.now_s = NOON_S // 3600 * 3600 + 1800
    quotas = {"acme": [Quota(tokens=100, per="hour"), Quota(tokens=300, per="rolling 2h")]}
    stores = [ClockedRedis(server.url, clock) for _ in range(2)]
    stores[1].server_clock.learn(time.time() - 3600, 0)
    services = [QuotaService(None, quotas=quotas, store=store) for store in stores]
    try:
        services[0].reserve("acme", 60).commit()
        services[1].reserve("acme", 40).commit()
        for service in services:
            assert service.remaining("acme") == 0
            (line, _) = [one for one in service.usage("acme").lines if one.resource == "tokens"]
            assert line.resets_at.timestamp() == clock.now_s + 1800
        clock.advance(3600)
        assert [service.remaining("acme") for service in services] == [100, 100]
    finally:
        for store in stores:
            store.close()


# --- keys


def test_all_keys_of_a_shard_have_its_hash_tag(server: RedisServer, clocked: Caller) -> None:
    clocked.record("r", 1, lifetime(), rolling(), shard="a}{b")
    clocked.reserve("h", 1, lifetime(), shard="a}{b")
    clocked.store.configure("a}{b", "k", otelbudget.stores.base.Override("{}"))
    assert {key.partition("}")[0] for key in lives(server)} == {"ob:{a%7D%7Bb"}
    assert len({redis.crc.key_slot(key.encode()) for key in lives(server)}) == 1
    clocked.record("r", 1, shard="")
    assert any(key.startswith("ob:{%20}:") for key in lives(server))


def test_windows_go_a_day_after_their_end_and_lifetimes_and_what_is_held_never(
    server: RedisServer, clocked: Caller
) -> None:
    lines = (day(), lifetime(), rolling(3600))
    clocked.record("r", 1, *lines)
    clocked.reserve("h", 1, *lines)
    held = lives(server)
    assert {key.split(":")[2]: life for key, life in held.items() if life != -1} == {
        "h": pytest.approx(3_600, abs=5),
        "b": pytest.approx(3_660 + DAY_S, abs=5),
    }
    clocked.settle("h", 1, *lines)
    accounts = {key: life for key, life in lives(server).items() if ":a:" in key or ":w:" in key}
    assert sorted(accounts.values()) == [
        -1,
        pytest.approx(3_660 + DAY_S, abs=5),
        pytest.approx(1.5 * DAY_S, abs=5),
    ]


def test_a_rolling_window_keeps_a_bounded_number_of_buckets(server: RedisServer, clocked: Caller, clock: Clock) -> None:
    for i in range(500):
        clocked.record(f"{i}", 1, rolling(60))
        clock.advance(1)
        assert clocked.state(rolling(60))[0] == min(i + 1, 60)
    (buckets,) = [key for key in lives(server) if ":b:" in key]
    assert 61 <= server.ask("HLEN", buckets) <= 128


def test_what_the_server_has_lost_is_charged_by_who_still_knows_it(server: RedisServer, clocked: Caller) -> None:
    clocked.reserve("a", 10)
    clocked.reserve("b", 10)
    server.ask("FLUSHALL")
    assert clocked.settle("a", 7, held=10).was == "unknown"
    assert clocked.reserve("b", 20, held=10).gone
    assert clocked.state() == (7, 7)


def test_a_lost_hold_or_account_leaves_the_rest_in_order(server: RedisServer, clocked: Caller, clock: Clock) -> None:
    """As under a memory policy that evicts keys, which the documentation warns of."""
    clocked.reserve("a", 10)
    server.ask("DEL", "ob:{acme}:h:a")
    clock.advance(100)
    assert clocked.state() == (0, 10)
    clocked.reserve("b", 5)
    server.ask("DEL", *[key for key in lives(server) if ":a:" in key])
    assert clocked.settle("b", 3).was == "open"
    assert clocked.state() == (3, 3)


# --- addresses


@pytest.mark.parametrize("form", ["redis://127.0.0.1:{port}/3", "unix://{socket}?db=3"])
def test_an_address_names_a_port_or_a_socket_and_a_database(server: RedisServer, form: str) -> None:
    store = RedisStore(form.format(port=server.port, socket=server.socket))
    Caller(store).record("r", 5)
    store.close()
    assert "db3" in server.ask("INFO", "keyspace")


def test_quotas_of_a_yaml_and_of_a_service_are_the_same_ones(server: RedisServer, tmp_path: Path) -> None:
    path = tmp_path / "budgets.yaml"
    path.write_text(
        f"quotas: {{default: [{{tokens: 100, per: lifetime, name: q}}]}}\nstore: {{url: '{server.url}', timeout: 5s}}\n"
    )
    place = Place("none", tmp_path)
    place.setup(str(path), store=None)
    with otelbudget.run() as run:
        run.record(Usage(tokens=30))
    other = QuotaService(Quota(tokens=100, per="lifetime", name="q"), store=server.url)
    assert other.remaining("default") == 70
    otelbudget.shutdown()


@pytest.mark.slow
def test_the_example_spends_one_quota_in_four_processes(server: RedisServer) -> None:
    example = Path(__file__).parents[2] / "examples" / "distributed_quota_example.py"
    done = subprocess.run([sys.executable, str(example), server.url], capture_output=True, text=True, check=True)
    spent = [int(line.split()[2]) for line in done.stdout.splitlines() if line.startswith("process")]
    (together,) = [line for line in done.stdout.splitlines() if line.startswith("together:")]
    assert len(spent) == 4
    assert 9_900 < sum(spent) <= 10_000
    assert together == f"together:  {sum(spent):>6} of 10000, {10_000 - sum(spent)} left"


@pytest.mark.parametrize("url", ["redis://:{}@127.0.0.1:{}", "redis://default:{}@127.0.0.1:{}/0"])
def test_a_password_opens_the_server_and_is_told_nobody(tmp_path: Path, url: str) -> None:
    guarded = RedisServer(tmp_path, "--requirepass", PASSWORD, password=PASSWORD)
    try:
        config = StoreConfig(url.format(QUOTED, guarded.port))
        assert "s3cr3t" not in f"{config} {config!r}"
        store = RedisStore(config.url)
        Caller(store).record("r", 1)
        guarded.kill()
        with pytest.raises(StoreError) as failed:
            Caller(store).state()
        store.close()
        guarded.start()
        wrong = RedisStore(url.format("s3cr3t", guarded.port))
        with pytest.raises(StoreError, match=r"store redis://\*\*\*@127\.0\.0\.1:\d+") as refused:
            Caller(wrong).state()
        wrong.close()
    finally:
        guarded.kill()
    for error in (failed.value, refused.value):
        assert "s3cr3t" not in f"{error} {error!r} {error.__cause__!r}"


@pytest.mark.parametrize(
    "url",
    [
        *(
            "redis://:s3cr3t/@h:6379",
            "redis://h:s3cr3t",
            "redis://h?socket_timeout=s3cr3t",
            "redis://h?Password=s3cr3t",
        ),
        *("redis+cluster://h?pasword=s3cr3t", "redis+sentinel://h/service/0?pasword=s3cr3t"),
    ],
)
def test_what_is_no_address_is_refused_without_saying_it(url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        RedisStore(url)
    assert "s3cr3t" not in f"{refused.value!r}".replace("redis://h:s3cr3t", "")
    assert refused.value.__cause__ is None


def test_without_redis_py_the_message_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['redis'] = None; from otelbudget import QuotaService; QuotaService(store='redis://h')"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "pip install 'otelbudget[redis]'" in ended.stderr


def test_importing_the_package_loads_no_redis_py() -> None:
    program = "import sys, otelbudget; sys.exit('redis' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# --- loops and children


def test_each_event_loop_has_one_connection_which_ends_with_it(server: RedisServer, store: RedisStore) -> None:
    def clients() -> int:
        return len(server.ask("CLIENT LIST"))

    async def read() -> int:
        await asyncio.gather(*(store.aread("acme", FIVE) for _ in range(30)))
        return clients()

    before = clients()
    assert [asyncio.run(read()) for _ in range(3)] == [before + 1] * 3
    ends_s = time.monotonic() + 5
    while clients() != before:
        assert time.monotonic() < ends_s


async def test_a_cancelled_request_leaves_the_others_their_answers(store: RedisStore) -> None:
    asked = Reserve("", "acme", FIVE, tokens(1), NOTHING, NOTHING, 60.0)
    tasks = [asyncio.ensure_future(store.areserve(asked._replace(id=f"{i}"))) for i in range(20)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(answer).__name__ for answer in answers] == ["CancelledError", "Answer"] * 10
    assert all(answer.states[0][0] == 0 for answer in answers[1::2])


class Interrupted(Exception):
    """What a signal handler raises."""


def interrupted_at(line: int, trip: Callable[[], object]) -> bool:
    """Make *trip* and raise at the *line*-th line that it runs on its way; False if it has fewer."""
    left = line

    def trace(frame: Any, event: str, _: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in (redis_wire.__file__, redis.connection.__file__):
            return None
        if event == "line":
            left -= 1
            if left == 0:
                sys.settrace(None)
                raise Interrupted
        return trace

    before = sys.gettrace()
    gc.disable()  # whose finalizers swallow what is raised in them
    sys.settrace(trace)
    try:
        trip()
    except (Interrupted, StoreError):
        return True
    finally:
        sys.settrace(before)
        gc.enable()
    return False


def test_an_exception_at_any_moment_of_a_trip_mixes_no_replies(server: RedisServer, store: RedisStore) -> None:
    caller, line = Caller(store), 0
    caller.record("first", 0)
    while True:
        line += 1
        if not interrupted_at(line, partial(caller.record, f"{line}", 1)):
            break
        assert caller.state(lifetime("other")) == (0, 0)
        caller.record(f"{line}", 1)
        assert caller.state() == (line, line)
    assert line > 30
    assert len(server.ask("CLIENT LIST")) < 10


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_parent_and_child_ask_on_connections_of_their_own(store: RedisStore) -> None:
    mine, theirs = Caller(store), Line("child", *lifetime()[1:])
    mine.record("r", 1)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            for i in range(300):
                assert mine.record(f"c{i}", 1, theirs).used == (vector(i + 1),)
            code = 0
        finally:
            os._exit(code)
    for i in range(300):
        assert mine.record(f"p{i}", 1).used == (vector(i + 2),)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert mine.state(theirs) == (300, 300)


def test_a_closed_store_leaves_no_thread_and_no_connection(server: RedisServer, tmp_path: Path) -> None:
    before, threads = len(server.ask("CLIENT LIST")), set(threading.enumerate())
    place = Place("redis", tmp_path)
    manager = place.setup(Quotas(default=[Quota(tokens=10, per="lifetime", name="q")]), store=server.url)
    with otelbudget.run() as run:
        run.record(Usage(tokens=3))
    assert state(QuotaService(store=manager)) == (3, 0, 7)
    otelbudget.shutdown()
    assert not set(threading.enumerate()) - threads
    ends_s = time.monotonic() + 5
    while len(server.ask("CLIENT LIST")) != before:
        assert time.monotonic() < ends_s
