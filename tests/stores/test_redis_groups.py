"""Servers that stand for each other (Sentinel) or share the keys (cluster): the same store behind one address."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis_groups import Move, Watched, cluster, is_whole, until, watched
from redis_server import RedisServer, certificate
from shared_kit import Place, state
from store_kit import NOTHING, Caller, lifetime, limit, tokens, vector

import otelbudget
from otelbudget import BudgetExceeded, Config, ConfigError, Quota, Quotas, QuotaService, StoreError, Usage
from otelbudget.config import StoreConfig
from otelbudget.stores.base import Line, Override, Reserve, Reset
from otelbudget.stores.records import RunRecord
from otelbudget.stores.redis import RedisStore

pytestmark = pytest.mark.slow
SHARDS = [f"org {i}" for i in range(40)]


def run_whole(work: Coroutine[Any, Any, Any]) -> Any:
    """In a loop that ends after what redis-py closes: over TLS, that takes some of its turns."""

    async def whole() -> Any:
        try:
            return await work
        finally:
            await asyncio.sleep(0.2)

    return asyncio.run(whole())


@pytest.fixture(autouse=True)
def _off() -> Iterator[None]:
    yield
    otelbudget.shutdown()
    gc.collect()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    with cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture
def url(nodes: list[RedisServer]) -> str:
    """Of all nodes, with nothing on them."""
    for node in nodes:
        node.ask("FLUSHALL")
    return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)


@pytest.fixture
def spread(url: str) -> Iterator[RedisStore]:
    """A store on all nodes."""
    store = RedisStore(url, timeout_s=5)
    yield store
    store.close()


@pytest.fixture(params=["plain", "secure"])
def group(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Watched]:
    with watched(tmp_path, secure=request.param == "secure") as made:
        yield made


def keys(node: RedisServer) -> int:
    return int(node.ask("DBSIZE"))


# --- a cluster


def test_shards_lie_on_all_nodes_and_each_on_one(nodes: list[RedisServer], spread: RedisStore) -> None:
    caller, line = Caller(spread), lifetime(limits=limit(10))
    for shard in SHARDS:
        assert caller.reserve("a", 6, line, lifetime("other"), shard=shard).refused is None
        assert caller.reserve("b", 6, line, lifetime("other"), shard=shard).refused == 0
        assert caller.settle("a", 5, line, lifetime("other"), shard=shard).was == "open"
        spread.configure(shard, "k", Override(shard))
    assert all(keys(node) > 5 for node in nodes)
    for shard in SHARDS:
        assert caller.state(line, shard=shard) == (5, 5)
        assert spread.overrides(shard) == {"k": Override(shard)}


def test_a_new_client_finds_accounts_wherever_they_are(nodes: list[RedisServer], spread: RedisStore) -> None:
    for shard in SHARDS[:12]:
        Caller(spread).record("r", 5, shard=shard)
    for shard in SHARDS[:12]:
        fresh = RedisStore(f"redis+cluster://127.0.0.1:{nodes[0].port}", timeout_s=5)
        assert [one.used[1] for one in fresh.accounts(shard)] == [5]
        fresh.configure(shard, "life", Reset())
        fresh.close()
        assert Caller(spread).state(shard=shard) == (0, 0)


async def test_coroutines_find_all_nodes_in_the_order_of_their_calls(spread: RedisStore) -> None:
    line = (lifetime(limits=limit(25)),)

    def ask(shard: str, i: int) -> Any:
        return spread.areserve(Reserve(f"{i}", shard, line, tokens(1), NOTHING, NOTHING, 60.0))

    answers = await asyncio.gather(*(ask(shard, i) for i in range(30) for shard in SHARDS[:8]))
    assert [answer.refused for answer in answers] == [None] * 200 + [0] * 40


def test_records_of_shared_runs_lie_with_their_shard(spread: RedisStore) -> None:
    for shard in SHARDS:
        assert spread.run(shard, "r1", RunRecord(shard, "open")) is not None
        assert spread.run(shard, "r1", RunRecord("", "frozen", 1)) is not None
    found = [spread.run(shard, "r1") for shard in SHARDS]
    assert [one[:3] for one in found if one is not None] == [(shard, "frozen", 1) for shard in SHARDS]


def test_a_slot_that_moves_takes_its_accounts_along(nodes: list[RedisServer], spread: RedisStore) -> None:
    caller = Caller(spread)
    caller.record("r", 5)
    Move(nodes, "acme").rest()
    assert caller.record("s", 7).used == (vector(12),)
    assert caller.state() == (12, 12)


@pytest.mark.parametrize("way", ["threads", "tasks"])
def test_what_is_asked_while_a_slot_moves_waits_until_it_has(
    nodes: list[RedisServer], spread: RedisStore, way: str
) -> None:
    line = lifetime(limits=limit(100))
    asked = [Reserve(f"n{i}", "acme", (line,), tokens(10), NOTHING, NOTHING, 60.0) for i in range(12)]
    caller = Caller(spread)
    caller.reserve("a", 50, line)
    move = Move(nodes, "acme")
    move.some("holds")
    threading.Timer(0.3, move.rest).start()

    async def together() -> list[Any]:
        return await asyncio.gather(*map(spread.areserve, asked))

    answers = asyncio.run(together()) if way == "tasks" else [spread.reserve(one) for one in asked]
    assert [answer.refused for answer in answers].count(None) == 5
    assert caller.settle("a", 20, line, held=50).was == "open"
    assert caller.state(line) == (20, 70)


def test_a_trip_while_a_slot_moves_happens_as_a_whole_or_not_at_all(nodes: list[RedisServer], url: str) -> None:
    patient, hasty = (RedisStore(url, timeout_s=timeout_s) for timeout_s in (5, 0.05))
    rolling = Line("roll", 0, 3600, True, (-1,) * 7)
    lines = (lifetime(), rolling)
    caller = Caller(patient)
    patient.configure("acme", "k", Override("rules"))
    caller.record("r", 3, *lines)
    caller.reserve("a", 10, *lines)
    caller.reserve("due", 7, *lines, ttl_s=-6.0)
    for part in ("b:", "h:due", "w:3600", "holds"):
        move = Move(nodes, "acme")
        move.some(part)
        for trip in (
            lambda: Caller(hasty).settle("a", 9, *lines, held=10),
            lambda: Caller(hasty).reserve("a", 11, *lines, held=10),
            lambda: Caller(hasty).state(*lines),
        ):
            with pytest.raises(StoreError):
                trip()
        move.rest()
        with_due = [(one.key, one.used[1], one.taken[1]) for one in patient.accounts("acme")]
        assert with_due == [("life", 3, 20), ("roll", 3, 20)], part
    assert caller.settle("a", 9, *lines, held=10).was == "open"
    assert caller.state(*lines) == (12, 12)  # what was due has come back
    assert [(one.key, one.used[1], one.taken[1]) for one in patient.accounts("acme")] == [
        ("life", 12, 12),
        ("roll", 12, 12),
    ]
    for store in (patient, hasty):
        store.close()


def test_what_is_set_is_found_where_it_has_gone_while_its_slot_moves(
    nodes: list[RedisServer], spread: RedisStore
) -> None:
    spread.configure("acme", "k", Override("rules"))
    move = Move(nodes, "acme")
    assert spread.overrides("acme") == {"k": Override("rules")}
    move.some("rules")
    assert spread.overrides("acme") == {"k": Override("rules")}
    move.rest()
    assert spread.overrides("acme") == {"k": Override("rules")}


def test_a_node_that_was_started_anew_is_found_again(nodes: list[RedisServer], spread: RedisStore) -> None:
    caller = Caller(spread)
    for shard in SHARDS[:9]:
        caller.record("r", 5, shard=shard)
    nodes[0].kill()
    nodes[0].start()
    until(lambda: is_whole(nodes[0]))
    for shard in SHARDS[:9]:
        assert caller.state(shard=shard) == (5, 5)


def test_quotas_of_several_organisations_on_a_cluster(nodes: list[RedisServer], tmp_path: Path) -> None:
    url = f"redis+cluster://127.0.0.1:{nodes[2].port}"
    quotas = Quotas(org=[Quota(tokens=100, per="lifetime", name="o")], default=[Quota(tokens=80, per="lifetime")])
    place = Place("none", tmp_path)
    orgs = {"a": "one", "b": "two", "c": "three"}
    manager = place.setup(Config(quotas=quotas, tenants=orgs), store=StoreConfig(url, timeout_s=5))
    for tenant in orgs:
        with otelbudget.run(tenant=tenant, reraise=False) as run:
            run.reserve(tokens=60).commit(Usage(tokens=50))
            with pytest.raises(BudgetExceeded):
                run.reserve(tokens=31)
    service = QuotaService(store=manager)
    assert [service.remaining(tenant) for tenant in ("a", "b", "c", "default")] == [30, 30, 30, 80]


def test_tenants_of_one_organisation_may_lie_on_all_nodes(nodes: list[RedisServer], tmp_path: Path) -> None:
    for node in nodes:
        node.ask("FLUSHALL")
    store = StoreConfig(f"redis+cluster://127.0.0.1:{nodes[0].port}", timeout_s=5, shard_by="tenant")
    quotas = Quotas(default=[Quota(tokens=80, per="lifetime")], users={"*": [Quota(tokens=70, per="day")]})
    service = QuotaService(store=Place("none", tmp_path).setup(quotas, store=store))
    tenants = [f"tenant {i}" for i in range(20)]
    for tenant in tenants:
        with otelbudget.run(tenant=tenant, user="u", reraise=False) as run:
            run.reserve(tokens=60).commit(Usage(tokens=50))
            with pytest.raises(BudgetExceeded):
                run.reserve(tokens=31)
    assert all(keys(node) > 4 for node in nodes)
    assert [service.remaining(tenant) for tenant in tenants] == [30] * 20
    service.reset(tenants[0])
    assert [service.remaining(tenant) for tenant in tenants[:2]] == [80, 30]


# --- Sentinel


@pytest.mark.parametrize("way", ["threads", "tasks"])
def test_after_the_masters_death_its_replica_goes_on(group: Watched, tmp_path: Path, way: str) -> None:
    quotas = Quotas(default=[Quota(tokens=1000, per="lifetime", name="q")])
    store = StoreConfig(group.url, timeout_s=1)  # TLS takes its time on a busy machine
    service = QuotaService(store=Place("none", tmp_path).setup(quotas, store=store))

    reasons: set[str] = set()

    def spend(run: Any) -> None:
        run.reserve(tokens=10).commit(Usage(tokens=7))

    async def aspend(run: Any) -> None:
        await (await run.areserve(tokens=10)).acommit(Usage(tokens=7))

    def once(run: Any) -> bool:
        try:
            spend(run) if way == "threads" else run_whole(aspend(run))
        except BudgetExceeded as stopped:
            reasons.add(stopped.reason)
            return False
        return True

    with otelbudget.run(reraise=False) as run:
        assert once(run)
        held = run.reserve(tokens=100)
        until(lambda: group.replica.ask("INFO", "replication")["master_repl_offset"] > 0)
        group.master.ask("WAIT", "1", "5000")
        group.master.kill()
        held.commit(Usage(tokens=50))  # waits for the new master
        until(lambda: once(run))
        assert group.replica.ask("ROLE")[0] == b"master"
    ends_s = time.monotonic() + 10
    while state(service) != (64, 0, 936):
        assert time.monotonic() < ends_s, state(service)
        time.sleep(0.05)
    assert reasons <= {"store_unavailable"}
    group.master.start()  # its end kills it


def test_a_wrong_password_of_the_sentinels_is_an_error_at_once_that_does_not_say_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with watched(tmp_path, secure=True) as group:
        for package in ("redis", "redis.asyncio"):
            monkeypatch.setattr(f"{package}.retry.sleep", None)  # nobody waits to try it again
        wrong = RedisStore(group.url.replace("of-the-sentinels", "s3cr3t"), timeout_s=2)
        for ask in (partial(Caller(wrong).record, "r", 5), lambda: run_whole(wrong.aread("shard", ()))):
            with pytest.raises(StoreError, match="No master found for 'quotas' : auth:") as refused:
                ask()
            assert "s3cr3t" not in str(refused.value)
            assert "of-the-servers" not in str(refused.value)
            assert len(str(refused.value)) < 300
        wrong.close()
        monkeypatch.undo()


def test_a_cluster_is_reached_over_tls(tmp_path: Path) -> None:
    tls = certificate(tmp_path)
    with cluster(tmp_path, tls=tls) as nodes:
        store = RedisStore(f"rediss+cluster://127.0.0.1:{nodes[0].port}?ssl_ca_certs={tls}", timeout_s=5)
        for shard in SHARDS[:12]:
            assert Caller(store).record("r", 5, shard=shard).was == "unknown"
        assert all(keys(node) for node in nodes)
        store.close()


@pytest.mark.parametrize("url", ["redis+sentinel://h:26379", "redis+sentinel://h:s3cr3t/quotas", "redis+cluster://"])
def test_an_address_of_several_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        RedisStore(url)
