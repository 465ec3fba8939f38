"""A call that nobody answers is given up when its run's time is over: that is a denial, and its end is unknown."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kits import KITS, SAY
from provider import Provider, Reply
from sdks import MODELS, WAYS, kit

from otelbudget import BudgetExceeded, RunBudget
from otelbudget.guards import GUARDS
from otelbudget.manager import BudgetManager

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it asks the network when it is imported
HANGS = Reply(fault="hang")
pytestmark = [
    pytest.mark.usefixtures("ticking"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def _stainless(sdk: str, way: str, server: Provider, **options: Any) -> None:
    made = kit(sdk, server, **options)
    with made.client:
        WAYS[way](made)


CASES = [
    *(
        pytest.param(sdk, lambda server, sdk=sdk, way=way: _stainless(sdk, way, server), id=f"{sdk} {way}")
        for sdk in MODELS
        for way in WAYS
    ),
    *(
        pytest.param(sdk, lambda server, ask=ask: ask(server.root_url), id=f"{sdk} {way}")
        for sdk, one in KITS.items()
        for way, ask in one.ways.items()
    ),
]


def _charged(run: Any) -> tuple[int, int | None]:
    assert run._state.account.holds == 0
    return run.usage.steps, run.usage.output_tokens


@pytest.mark.parametrize(("sdk", "ask"), CASES)
def test_a_call_without_an_answer_ends_with_the_run_s_time(
    sdk: str, ask: Callable[[Provider], object], server: Provider, manager: BudgetManager
) -> None:
    server.enqueue(HANGS)
    with manager.run(RunBudget(max_seconds=0.5), reraise=False) as run:
        with pytest.raises(BudgetExceeded) as caught:
            ask(server)
        assert caught.value.reason == "deadline"
        assert caught.value.__cause__ is not None
        assert _charged(run) == (1, 0)
        assert run.usage.input_tokens
        assert run.usage.estimated
    assert server.requests == 1


@pytest.mark.parametrize(("sdk", "way"), [(sdk, way) for sdk in MODELS for way in WAYS if "stream" in way])
def test_a_stream_that_stops_ends_with_the_run_s_time(
    sdk: str, way: str, server: Provider, manager: BudgetManager
) -> None:
    server.chunk_s = 60
    server.enqueue(Reply(chunks=("one ", "two ")))
    with manager.run(RunBudget(max_seconds=0.5), reraise=False) as run:
        with pytest.raises(BudgetExceeded) as caught:
            _stainless(sdk, way, server)
        assert caught.value.reason == "deadline"
        assert _charged(run)[0] == 1
        assert run.usage.estimated


@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
def test_a_shorter_timeout_of_the_application_s_own_stays_its_own(
    sdk: str, server: Provider, manager: BudgetManager
) -> None:
    server.enqueue(HANGS)
    with manager.run(RunBudget(max_seconds=60)) as run:
        with pytest.raises(Exception, match="timed out") as caught:
            _stainless(sdk, "sync", server, timeout=0.6)
        assert not isinstance(caught.value, BudgetExceeded)
        assert _charged(run) == (1, 0)


@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
def test_more_time_is_for_the_next_attempt(sdk: str, server: Provider, manager: BudgetManager) -> None:
    server.enqueue(HANGS, Reply(input_tokens=8, output_tokens=2))
    asked = []

    def more(denial: Any, run: Any) -> bool:
        asked.append(denial.reason)
        run.extend(seconds=30)
        return True

    with manager.run(RunBudget(max_seconds=0.5, on_exhausted=more)) as run:
        _stainless(sdk, "sync", server, max_retries=1)
        assert _charged(run) == (1, 2)
    assert (server.requests, asked) == (2, ["deadline"])


@pytest.mark.parametrize("budget", [RunBudget(max_seconds=0.5, on_exhausted="warn"), RunBudget(max_steps=3)])
@pytest.mark.parametrize("sdk", ["openai"])
def test_a_run_that_only_watches_or_has_all_the_time_waits(
    sdk: str, budget: RunBudget, server: Provider, manager: BudgetManager
) -> None:
    server.enqueue(Reply(input_tokens=8, output_tokens=2, latency_s=0.7))
    with manager.run(budget) as run:
        _stainless(sdk, "sync", server)
        assert _charged(run) == (1, 2)


@pytest.fixture
def inner() -> Iterator[None]:
    """OpenAI's SDK is guarded, through which litellm sends."""
    GUARDS["openai"].install()
    yield
    GUARDS["openai"].uninstall()


def _litellm(route: str, server: Provider) -> dict[str, str]:
    model, base = {
        "openai": ("openai/gpt-4o-mini", server.base_url),
        "anthropic": ("anthropic/claude-haiku-4-5", server.root_url),
    }[route]
    return {"model": model, "api_base": base, "api_key": "none"}


LITELLM: dict[str, Callable[[Any, dict[str, Any]], object]] = {
    "completion": lambda litellm, to: litellm.completion(messages=SAY, **to),
    "acompletion": lambda litellm, to: asyncio.run(litellm.acompletion(messages=SAY, **to)),
    "router": lambda litellm, to: litellm.Router(
        [{"model_name": "mine", "litellm_params": to}], num_retries=2, retry_after=0
    ).completion(model="mine", messages=SAY),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("sdk", ["litellm"])
@pytest.mark.parametrize("way", LITELLM)
@pytest.mark.parametrize("route", ["openai", "anthropic"])
@pytest.mark.usefixtures("inner")
def test_a_call_of_litellm_without_an_answer_does_too(
    sdk: str, way: str, route: str, server: Provider, manager: BudgetManager
) -> None:
    litellm = pytest.importorskip("litellm")
    server.enqueue(*[HANGS] * 9)
    with manager.run(RunBudget(max_seconds=0.5), reraise=False) as run:
        with pytest.raises(BudgetExceeded) as caught:
            LITELLM[way](litellm, _litellm(route, server))
        assert caught.value.reason == "deadline"
        assert _charged(run) == (1, 0)
        assert run.usage.input_tokens
    assert server.requests == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("sdk", ["litellm"])
@pytest.mark.parametrize(
    ("seconds", "own", "given"),
    [
        (None, {"timeout": "30"}, 30),
        (None, {}, 600),
        (1000, {"timeout": "30"}, 30),
        (1000, {}, 600),
        (20, {"timeout": "30"}, 20.01),
        (20, {"timeout": None}, 20.01),
        (20, {"timeout": 10, "stream": True, "stream_timeout": 30}, 20.01),
    ],
)
def test_litellm_s_own_timeout_in_any_form_is_never_made_longer(
    sdk: str, seconds: float | None, own: dict[str, Any], given: float, manager: BudgetManager, monkeypatch: Any
) -> None:
    litellm = pytest.importorskip("litellm")
    manager.engine.clock_ns = lambda: 0
    seen = []

    class Mine(litellm.CustomLLM):  # type: ignore[misc, name-defined]
        def completion(self, *_: Any, **how: Any) -> Any:
            seen.append(how["timeout"])
            return litellm.ModelResponse()

        def streaming(self, *_: Any, **how: Any) -> Any:
            seen.append(how["timeout"])
            return iter(())

    monkeypatch.setattr(litellm, "custom_provider_map", [{"provider": "mine", "custom_handler": Mine()}])
    with manager.run(RunBudget(max_seconds=seconds, max_steps=3)):
        litellm.completion("mine/model", SAY, **own)
    assert [float(one) for one in seen] == [given]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("sdk", ["litellm"])
@pytest.mark.parametrize("fault", [{"fault": "reset"}, {"fault": "hang"}])
@pytest.mark.parametrize("route", ["openai", "anthropic"])
def test_litellm_s_errors_of_the_connection_are_no_answers(
    sdk: str, fault: dict[str, Any], route: str, server: Provider, manager: BudgetManager
) -> None:
    litellm = pytest.importorskip("litellm")
    server.enqueue(Reply(**fault))
    with manager.run() as run:
        with pytest.raises((litellm.Timeout, litellm.InternalServerError)):
            litellm.completion(messages=SAY, timeout=0.6, max_retries=0, **_litellm(route, server))
        assert _charged(run) == (1, 0)
        assert run.usage.input_tokens


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("sdk", ["litellm"])
@pytest.mark.parametrize("route", ["openai", "anthropic"])
def test_what_litellm_could_not_send_costs_nothing(
    sdk: str, route: str, server: Provider, manager: BudgetManager
) -> None:
    litellm = pytest.importorskip("litellm")
    to = _litellm(route, server)
    server.close()
    with manager.run() as run:
        with pytest.raises(litellm.InternalServerError):
            litellm.completion(messages=SAY, max_retries=0, **to)
        assert _charged(run) == (0, 0)
