"""The research agent stops where its budget says, after `setup()` and without it, and ends with what it has."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from decimal import Decimal

import openai
import pytest
from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from provider import Provider, Reply

import otelbudget
from otelbudget import BudgetManager, Config, RunBudget
from otelbudget.demo import ResearchAgent
from otelbudget.demo.paying import DEMO_PRICES
from otelbudget.demo.server import Request
from otelbudget.engine import context
from otelbudget.pricing import Price

QUESTION = "How does a token bucket limit requests?"
PRICES = {name: Price(input=prices[0], output=prices[1]) for name, prices in DEMO_PRICES.items()}


@pytest.fixture(autouse=True)
def _nothing_set_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OTELBUDGET_DEMO_MODEL"):
        monkeypatch.delenv(name, raising=False)
    yield
    otelbudget.shutdown()
    if (default := context.active_engine()) is not None:  # that of runs before setup()
        context.deactivate(default)


@pytest.fixture
def server() -> Iterator[Provider]:
    with Provider() as server:
        yield server


@pytest.fixture
def client(server: Provider) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(params=["by itself", "after setup", "with spans only"])
def way(request: pytest.FixtureRequest) -> Iterator[None]:
    """How the budget is enforced: by the agent, by the guard, or by the agent while a manager listens to spans."""
    if request.param == "after setup":
        otelbudget.setup(Config(prices=PRICES), metrics_port=None, exporter="none")
        yield
    elif request.param == "with spans only":
        provider = TracerProvider()
        provider.add_span_processor(BudgetManager())
        instrumentor = OpenAIInstrumentor()
        instrumentor.instrument(tracer_provider=provider)
        yield
        instrumentor.uninstrument()
        provider.shutdown()
    else:
        yield


def ask(client: openai.OpenAI, budget: RunBudget | str | None = None, **options):
    return ResearchAgent(budget, client=client, model="demo-small", **options).answer(QUESTION)


@pytest.mark.usefixtures("way")
def test_an_answer_says_what_it_took(server, client) -> None:
    result = ask(client, RunBudget(max_steps=10))
    assert "bucket" in result["answer"]
    assert result["documents"][0] == "token-bucket"
    assert len(result["documents"]) == 3
    assert (result["exhausted"], result["reason"], result["resource"], result["message"]) == (False, None, None, None)
    used = result["budget_used"]
    assert used["steps"] == server.requests == 4
    assert used["tokens"] == used["input_tokens"] + used["output_tokens"] > 1000
    assert used["tool_calls"] == 7  # one search, three documents, and in each of those a search
    assert used["nested_tool_calls"] == 3
    assert used["seconds"] > 0


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_it_stops_at_its_steps(server, client, steps: int) -> None:
    result = ask(client, RunBudget(max_steps=steps))
    assert server.requests == result["budget_used"]["steps"] == steps
    assert (result["exhausted"], result["reason"], result["resource"]) == (True, "limit", "steps")
    assert f"steps used {steps} of {steps}" in result["message"]
    if steps >= 2:
        assert "bucket" in result["answer"]  # quoted from what was read
    else:
        assert result["answer"] == "The budget ran out before any document was read."


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    ("budget", "resource"),
    [(RunBudget(max_tokens=1500), "tokens"), (RunBudget(max_cost_usd=Decimal("0.0004")), "cost_usd")],
)
def test_it_never_spends_more_than_its_tokens_or_money(server, client, budget: RunBudget, resource: str) -> None:
    result = ask(client, budget, documents=12)
    assert (result["exhausted"], result["resource"]) == (True, resource)
    assert 0 < result["budget_used"][resource] <= getattr(budget, f"max_{resource}")
    assert server.requests == result["budget_used"]["steps"]


def test_it_is_charged_the_same_with_a_guard_and_without(client) -> None:
    budget = RunBudget(max_cost_usd=1)
    alone = ask(client, budget)["budget_used"]
    otelbudget.setup(Config(prices=PRICES), metrics_port=None, exporter="none")
    guarded = ask(client, budget)["budget_used"]
    assert {k: v for k, v in alone.items() if k != "seconds"} == {k: v for k, v in guarded.items() if k != "seconds"}
    assert alone["cost_usd"] > 0


@pytest.mark.usefixtures("way")
def test_it_stops_when_its_time_is_over(server, client) -> None:
    def ten_seconds(_: Request) -> float:
        engine = context.active_engine()
        assert engine is not None
        engine.clock_ns = lambda: time.monotonic_ns() + 10_000_000_000
        return 0

    server.latency_s = ten_seconds
    result = ask(client, RunBudget(max_seconds=10))
    assert (result["exhausted"], result["reason"], result["resource"]) == (True, "deadline", "seconds")
    assert server.requests == 1


@pytest.mark.usefixtures("way")
def test_it_sums_up_with_the_step_set_aside(server, client) -> None:
    result = ask(client, RunBudget(max_steps=4, wrap_up={"steps": 1}), documents=12)
    assert (result["exhausted"], result["resource"]) == (True, "steps")
    assert server.requests == result["budget_used"]["steps"] == 4
    last = server.recent[-1].body
    assert "tools" not in last
    assert last["messages"][-1]["content"].startswith("Notes: ")
    assert "bucket" in result["answer"]


@pytest.mark.usefixtures("way")
def test_the_last_call_fits_into_the_tokens_set_aside(server, client) -> None:
    budget = RunBudget(max_tokens=2500, wrap_up={"tokens": 600})
    result = ask(client, budget, documents=12)
    assert result["resource"] == "tokens"
    assert "tools" not in server.recent[-1].body
    assert result["budget_used"]["tokens"] <= 2500


@pytest.mark.usefixtures("way")
def test_a_refused_tool_leaves_one_call_to_answer_with(server, client) -> None:
    result = ask(client, RunBudget(max_tool_calls=3), documents=12)
    assert (result["exhausted"], result["resource"]) == (True, "tool_calls")
    assert result["budget_used"]["tool_calls"] == 3
    assert "tools" not in server.recent[-1].body


def test_it_does_without_nested_calls_that_it_may_not_make(client) -> None:
    result = ask(client, RunBudget(max_nested_tool_calls=1))
    assert not result["exhausted"]
    assert result["budget_used"]["nested_tool_calls"] == 1


def test_without_a_budget_it_spends_that_of_the_run_around_it(server, client) -> None:
    with otelbudget.run(RunBudget(max_steps=5), tenant="acme") as run:
        assert not ask(client)["exhausted"]
        result = ask(client)
        assert result["exhausted"]
        assert result["budget_used"]["steps"] == run.receipt().used["steps"] == server.requests == 5
    assert run.receipt().outcome == "exhausted"


def test_a_name_is_looked_up_in_the_configuration(server, client) -> None:
    otelbudget.setup(Config({"small": RunBudget(max_steps=1)}), metrics_port=None, exporter="none")
    assert ask(client, "small", tenant="acme", user="ada")["exhausted"]
    assert server.requests == 1
    with pytest.raises(otelbudget.ConfigError, match="did you mean 'small'"):
        ask(client, "smal")


def test_a_model_that_errs_is_told_and_goes_on(server, client) -> None:
    server.enqueue(
        Reply(tool_calls=[("read_document", {"id": "nonsense"}), ("dance", {}), ("search", {"query": "bucket"})])
    )
    assert "bucket" in ask(client)["answer"]
    told = [m["content"] for m in server.recent[1].body["messages"] if m["role"] == "tool"]
    assert told[0] == "There is no document 'nonsense'. Search first."
    assert told[1] == "There is no tool 'dance'."
    assert '"token-bucket"' in told[2]


def test_a_model_that_never_stops_is_made_to_answer(server, client) -> None:
    server.enqueue(*[Reply(tool_calls=[("search", {"query": "x"})])] * 40)
    assert ask(client)["answer"]
    assert server.requests == 41


@pytest.mark.usefixtures("way")
def test_a_failed_call_is_the_callers_and_is_charged_once(server, client) -> None:
    server.enqueue(Reply(status=500))
    with otelbudget.run(RunBudget(max_steps=5)) as run, pytest.raises(openai.InternalServerError):
        ask(client)
    assert run.receipt().used["steps"] == 1


def test_without_a_key_it_asks_a_server_of_this_process() -> None:
    first, second = ResearchAgent(RunBudget(max_steps=9)), ResearchAgent(RunBudget(max_steps=9))
    assert first.answer(QUESTION)["answer"] == second.answer(QUESTION)["answer"]


def test_with_a_key_it_asks_that_service(server, monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    assert ResearchAgent().answer(QUESTION)["answer"]
    assert server.recent[0].headers["authorization"] == "Bearer sk-test"
    assert server.recent[0].body["model"].startswith("gpt-")
    monkeypatch.setenv("OTELBUDGET_DEMO_MODEL", "my-model")
    assert ResearchAgent().answer(QUESTION)["answer"]
    assert server.recent[-1].body["model"] == "my-model"


def test_without_the_client_it_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ImportError, match=r"pip install 'otelbudget\[openai\]'"):
        ResearchAgent().answer(QUESTION)


@pytest.mark.parametrize(
    ("question", "document"),
    [
        ("What is machine learning?", "machine-learning"),
        ("What is Python?", "python"),
        ("What is deep learning?", "deep-learning"),
    ],
)
def test_what_first_users_ask_is_answered_from_the_document_about_it(
    client: openai.OpenAI, question: str, document: str
) -> None:
    result = ResearchAgent(RunBudget(max_steps=10), client=client).answer(question)
    assert result["documents"][0] == document
    assert result["answer"].startswith(question.removeprefix("What is ").rstrip("?").capitalize())
