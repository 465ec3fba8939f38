"""What holds for the guard of each SDK, in each way of calling it: nothing that can't be paid for is ever sent."""

from __future__ import annotations

import gc
import inspect
import socket
from collections.abc import Callable
from typing import Any

import pytest
from kits import KITS, USED, charged
from provider import Provider, Reply

from otelbudget import BudgetExceeded, Config, Quota, Quotas, RunBudget
from otelbudget.guards import GUARDS
from otelbudget.guards.patching import innermost
from otelbudget.manager import BudgetManager

#: Warnings of the SDKs themselves.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
EVERY_WAY = pytest.mark.parametrize(("sdk", "way"), [(sdk, way) for sdk, kit in KITS.items() for way in kit.ways])
#: The first four: sync, streamed, async, and both.
FOUR = [(sdk, way) for sdk, kit in KITS.items() for way in [*kit.ways][:4]]
FOUR_WAYS = pytest.mark.parametrize(("sdk", "way"), FOUR)
EVERY_SDK = pytest.mark.parametrize("sdk", KITS)


@EVERY_WAY
def test_denied_from_the_start_no_request_and_one_step_of_five_is_one(
    sdk: str, way: str, server: Provider, manager: BudgetManager
) -> None:
    server.enqueue(USED)
    for steps, seen in ((0, 5), (1, 4)):
        denials = []
        with manager.run(RunBudget(max_steps=steps), reraise=False) as run:
            for _ in range(5):
                try:
                    KITS[sdk].ways[way](server.root_url)
                except BudgetExceeded as denial:
                    denials.append(denial.__cause__)
            assert charged(run) == (steps, 80 * steps, 20 * steps)
        assert denials == [None] * seen
        assert server.requests == steps


@pytest.mark.parametrize("config", [Config(quotas=Quotas(default=[Quota(steps=1, per="day")]))])
@FOUR_WAYS
def test_a_tenant_s_quota_of_one_step_is_one_request(
    sdk: str, way: str, server: Provider, manager: BudgetManager
) -> None:
    server.enqueue(USED)
    with manager.run(tenant="acme", reraise=False):
        KITS[sdk].ways[way](server.root_url)
        for _ in range(4):
            with pytest.raises(BudgetExceeded):
                KITS[sdk].ways[way](server.root_url)
    assert server.requests == 1


@FOUR_WAYS
def test_an_error_answer_is_one_step_without_tokens(
    sdk: str, way: str, server: Provider, manager: BudgetManager
) -> None:
    server.enqueue(Reply(status=400))
    with manager.run() as run:
        with pytest.raises(Exception, match="400") as caught:
            KITS[sdk].ways[way](server.root_url)
        assert not isinstance(caught.value, BudgetExceeded)
        assert charged(run) == (1, 0, 0)


@pytest.mark.parametrize(("sdk", "way"), [(sdk, way) for sdk, way in FOUR if sdk in ("cohere", "ollama", "bedrock")])
def test_what_never_left_is_given_back(sdk: str, way: str, manager: BudgetManager) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    with manager.run() as run:
        with pytest.raises(Exception, match=r"refused|attempts failed|[Cc]onnect"):
            KITS[sdk].ways[way](nobody)
        assert charged(run) == (0, 0, 0)


@EVERY_SDK
def test_the_sdk_is_as_before_when_the_guard_is_out(sdk: str, server: Provider) -> None:
    pytest.importorskip(GUARDS[sdk].module)
    kit = KITS[sdk]
    before, attributes = _functions(kit.holders()), [dict(vars(holder)) for holder in kit.holders()]
    GUARDS[sdk].install()
    GUARDS[sdk].install()
    changed = {f.__name__ for f, code, *_ in before if f.__code__ is not code}
    for holder, was in zip(kit.holders(), attributes, strict=True):
        changed |= {name for name in was if vars(holder)[name] is not was[name]}
    assert changed == kit.changes
    assert GUARDS[sdk].unreached() == []
    GUARDS[sdk].uninstall()
    GUARDS[sdk].uninstall()
    assert _functions(kit.holders()) == before
    assert [dict(vars(holder)) for holder in kit.holders()] == attributes
    assert GUARDS[sdk].unreached()
    next(iter(kit.ways.values()))(server.root_url)


def _functions(holders: list[Any]) -> list[tuple[Any, ...]]:
    found = [f for holder in holders for one in vars(holder).values() if (f := innermost(one)) is not None]
    return [(f, f.__code__, f.__kwdefaults__, dict(vars(f)), inspect.signature(f)) for f in found]


@EVERY_SDK
def test_a_class_that_goes_its_own_way_is_named(sdk: str, manager: BudgetManager) -> None:
    base = next(one for one in KITS[sdk].holders() if isinstance(one, type) and _taken(sdk) in vars(one))
    own: Callable[..., None] = lambda self, *args, **how: None  # noqa: E731 - it has no super()
    made: Any = type("Own", (base,), {_taken(sdk): own})
    assert [name.rpartition(".")[2] for name in GUARDS[sdk].unreached()] == ["Own"]
    del made
    gc.collect()  # a class is in a cycle with itself
    assert GUARDS[sdk].unreached() == []


def _taken(sdk: str) -> str:
    guard: Any = GUARDS[sdk]
    name: str = guard._taken[0][1]
    return name
