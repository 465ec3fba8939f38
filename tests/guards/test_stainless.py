"""One guard for every SDK of the Stainless generator: each is stopped before it sends, and charged what it used."""

from __future__ import annotations

import gc
import inspect
import socket
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from kits import charged
from provider import Provider, Reply
from sdks import MODELS, WAYS, Kit, kit

from otelbudget import BudgetExceeded, Config, Quota, Quotas, RunBudget
from otelbudget.estimate.tokens import count_input, estimate_tokens
from otelbudget.guards import GUARDS
from otelbudget.manager import BudgetManager

SDKS = tuple(MODELS)
USED = Reply(chunks=("one ", "two ", "three"), input_tokens=80, output_tokens=20, cached_tokens=30, written_tokens=7)


@pytest.fixture(autouse=True)
def _retries_at_once(sdk: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = pytest.importorskip(f"{GUARDS[sdk].module}._base_client")

    def _calculate_retry_timeout(*_: object) -> float:
        return 0.0

    monkeypatch.setattr(inside.BaseClient, _calculate_retry_timeout.__name__, _calculate_retry_timeout)


@pytest.fixture
def clients(sdk: str, server: Provider, manager: BudgetManager) -> Iterator[Kit]:
    made = kit(sdk, server)
    with made.client:
        yield made


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize("way", WAYS)
def test_a_call_that_is_denied_from_the_start_is_never_sent(
    way: str, server: Provider, manager: BudgetManager, clients: Kit
) -> None:
    with manager.run(RunBudget(max_steps=0), reraise=False) as run:
        with pytest.raises(BudgetExceeded) as caught:
            WAYS[way](clients)
        assert (type(caught.value), caught.value.__cause__) == (BudgetExceeded, None)
        assert charged(run) == (0, 0, 0)
    assert server.requests == 0


def _five_times(way: str, clients: Kit) -> list[str]:
    seen = []
    for _ in range(5):
        made = kit(clients.sdk, str(clients.client.base_url).removesuffix("/v1/").rstrip("/"))
        try:
            WAYS[way](made)
        except BudgetExceeded as denial:
            seen.append(denial.scope)
        finally:
            made.client.close()
    return seen


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize("way", WAYS)
def test_one_step_of_five_wanted_is_one_request_and_its_tokens_are_the_server_s(
    way: str, server: Provider, manager: BudgetManager, clients: Kit
) -> None:
    server.enqueue(USED)
    with manager.run(RunBudget(max_steps=1), reraise=False) as run:
        assert _five_times(way, clients) == ["run"] * 4
        assert charged(run) == (1, 80, 20)
    assert server.requests == 1


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("config", [Config(quotas=Quotas(default=[Quota(steps=1, per="day")]))])
def test_a_tenant_s_quota_of_one_step_is_one_request(
    way: str, server: Provider, manager: BudgetManager, clients: Kit
) -> None:
    with manager.run(tenant="acme", reraise=False):
        assert _five_times(way, clients) == ["tenant"] * 4
    assert server.requests == 1


@pytest.mark.parametrize("sdk", SDKS)
def test_a_call_costs_what_the_list_says_and_no_cost_is_left_means_no_request(
    sdk: str, server: Provider, manager: BudgetManager, clients: Kit
) -> None:
    server.enqueue(Reply(text="one", input_tokens=1000, output_tokens=50))
    with manager.run(RunBudget(max_cost_usd=Decimal("0.02")), reraise=False) as run:
        clients.create(clients.client)
        assert run.usage.cost_usd
    with manager.run(RunBudget(max_cost_usd=0), reraise=False), pytest.raises(BudgetExceeded):
        clients.create(clients.client)
    assert server.requests == 1


@pytest.mark.parametrize("sdk", SDKS)
def test_a_stream_left_early_is_charged_what_was_read(
    sdk: str, server: Provider, manager: BudgetManager, clients: Kit
) -> None:
    given = 80 if sdk == "anthropic" else count_input(clients.body)  # Anthropic tells the input first
    for leave in (_close, _leave_block):
        server.enqueue(USED)
        with manager.run() as run:
            leave(clients)
            assert charged(run) == (1, given, estimate_tokens("one "))
    server.enqueue(USED)
    with manager.run() as run:
        stream = clients.create(clients.client, stream=True)
        _first_word(stream)
        del stream
        gc.collect()
        clients.create(clients.client)  # settles what was dropped
        assert run._state.account.holds == 0
        assert run.usage.steps == 2


def _close(clients: Kit) -> None:
    stream = clients.create(clients.client, stream=True)
    _first_word(stream)
    stream.close()


def _leave_block(clients: Kit) -> None:
    with clients.create(clients.client, stream=True) as stream:
        _first_word(stream)


def _first_word(stream: Any) -> None:
    next(chunk for chunk in stream if "one " in str(chunk))


@pytest.mark.parametrize("sdk", SDKS)
def test_a_stream_that_outgrows_the_budget_is_cut(
    sdk: str, server: Provider, manager: BudgetManager, clients: Kit
) -> None:
    server.enqueue(Reply(chunks=tuple(f"word{i} " for i in range(900)), input_tokens=10, output_tokens=900))
    body = {**clients.body, "max_tokens": 2000, "stream": True}
    made = clients.client.messages if sdk == "anthropic" else clients.client.chat.completions
    with manager.run(RunBudget(max_output_tokens=600), reraise=False) as run:
        if sdk == "anthropic":  # its maximum is required, so nothing can outgrow it
            with pytest.raises(BudgetExceeded):
                made.create(**body)
            assert server.requests == 0
            return
        del body["max_tokens"]
        with pytest.raises(BudgetExceeded) as caught:
            list(made.create(**body))
        assert caught.value.__cause__ is None
        assert 500 < (charged(run)[2] or 0) < 610


@pytest.mark.parametrize("sdk", SDKS)
def test_retries_of_the_sdk_are_one_step_and_each_lost_attempt_costs_its_input(
    sdk: str, server: Provider, manager: BudgetManager, clients: Kit
) -> None:
    retrying, given = clients.client.with_options(max_retries=2), count_input(clients.body)
    cases: tuple[tuple[tuple[Reply, ...], tuple[int, int, int]], ...] = (
        ((Reply(status=429), Reply(status=500), USED), (1, 80, 20)),
        ((Reply(fault="reset"), USED), (1, 80 + given, 20)),
        ((Reply(fault="reset"), Reply(fault="reset"), Reply(fault="reset")), (1, 3 * given, 0)),
        ((Reply(status=500),) * 3, (1, 0, 0)),
        ((Reply(fault="reset"), Reply(status=400)), (1, given, 0)),
    )
    for replies, owed in cases:
        server.enqueue(*replies)
        manager.engine.learned = type(manager.engine.learned)()
        with manager.run(RunBudget(max_steps=1), reraise=False) as run:
            try:
                clients.create(retrying)
            except clients.module.APIError:
                assert owed[2] == 0
            assert charged(run) == owed
    assert server.requests == sum(len(replies) for replies, _ in cases)


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize("retries", [0, 1])
def test_a_refused_connection_gives_everything_back(sdk: str, retries: int, manager: BudgetManager) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    for way in WAYS.values():
        made = kit(sdk, nobody, max_retries=retries)
        with made.client, manager.run(RunBudget(max_steps=1)) as run:
            with pytest.raises(made.module.APIConnectionError):
                way(made)
            assert charged(run) == (0, 0, 0)


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize("way", WAYS)
def test_a_timeout_after_sending_charges_the_input(
    sdk: str, way: str, server: Provider, manager: BudgetManager
) -> None:
    server.enqueue(Reply(fault="hang"))
    made = kit(sdk, server, timeout=0.5)
    with made.client, manager.run() as run:
        with pytest.raises(made.module.APITimeoutError):
            WAYS[way](made)
        assert charged(run) == (1, count_input(made.body), 0)


@pytest.mark.parametrize("sdk", SDKS)
def test_an_error_answer_is_one_step_without_tokens_and_other_endpoints_pass(
    sdk: str, server: Provider, manager: BudgetManager, clients: Kit
) -> None:
    with manager.run(RunBudget(max_steps=0)) as run:
        clients.client.get("/models" if sdk == "openai" else "/v1/models", cast_to=object)
        with pytest.raises(clients.module.NotFoundError):
            clients.client.post("/v1/messages/count_tokens", cast_to=object, body=clients.body)
        assert charged(run) == (0, 0, 0)
    server.enqueue(Reply(status=400))
    with manager.run() as run:
        with pytest.raises(clients.module.BadRequestError):
            clients.create(clients.client)
        assert charged(run) == (1, 0, 0)


def _functions(clients: Kit) -> list[Any]:
    return [found for cls in clients.bases() for found in vars(cls).values() if inspect.isfunction(found)]


@pytest.mark.parametrize("sdk", SDKS)
def test_the_sdk_is_as_before_when_the_guard_is_out(sdk: str, server: Provider) -> None:
    made = kit(sdk, server)

    def state() -> list[Any]:
        return [(f, f.__code__, f.__kwdefaults__, dict(vars(f)), inspect.signature(f)) for f in _functions(made)]

    before, attributes = state(), [dict(vars(cls)) for cls in made.bases()]
    GUARDS[sdk].install()
    GUARDS[sdk].install()
    changed = [f.__name__ for f, code, *_ in before if f.__code__ is not code]
    for cls, was in zip(made.bases(), attributes, strict=True):
        changed += [name for name in was if vars(cls)[name] is not was[name]]
    method = "_request" if sdk == "anthropic" and hasattr(made.client, "_request") else "request"
    assert sorted(changed) == sorted(
        ["_build_request", "_calculate_retry_timeout", "_should_retry", "__iter__", "__aiter__"]
        + 2 * [method, "_process_response", "_sleep_for_retry", "__init__"]
    )
    assert GUARDS[sdk].unreached() == []
    GUARDS[sdk].uninstall()
    GUARDS[sdk].uninstall()
    assert state() == before
    assert [dict(vars(cls)) for cls in made.bases()] == attributes
    assert GUARDS[sdk].unreached()
    made.create(made.client)
    made.client.close()


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize("method", ["request", "_request"])
def test_a_client_class_that_goes_its_own_way_is_named(
    sdk: str, method: str, manager: BudgetManager, clients: Kit
) -> None:
    if not hasattr(clients.client, method):
        return
    own: Callable[..., None] = lambda self, *args, **how: None  # noqa: E731 - it has no super()
    made: Any = type("Own", (type(clients.client),), {method: own})
    assert [name.rpartition(".")[2] for name in GUARDS[sdk].unreached()] == ["Own"]
    del made
    gc.collect()  # a class is in a cycle with itself
    assert GUARDS[sdk].unreached() == []
