"""A Celery task is a run, in a real worker, and a denial isn't retried."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from celery import Celery, Task
from celery.contrib.testing.worker import start_worker
from provider import Provider

import otelbudget
from otelbudget import BudgetExceeded
from otelbudget.integrations.celery import BudgetTask

Setup = Callable[..., otelbudget.BudgetManager]
ATTEMPTS: list[str] = []
app = Celery("rules", broker="memory://", backend="cache+memory://")
app.conf.update(task_serializer="pickle", result_serializer="pickle", accept_content=["pickle", "json"])


class OfTenant(BudgetTask):
    abstract = True
    budget = "two"

    def run_options(self, args: Any, kwargs: Any) -> Any:
        return {"tenant": args[0]}


@app.task(base=OfTenant, autoretry_for=(Exception,), default_retry_delay=0, max_retries=3)
def work(tenant: str, calls: int, wrapped: bool = False) -> str:
    ATTEMPTS.append(tenant)
    if calls < 0 and len(ATTEMPTS) < 3:
        raise LookupError("try again")
    with openai.OpenAI(max_retries=0) as client:
        try:
            for _ in range(calls):
                client.chat.completions.create(model="demo-small", messages=[{"role": "user", "content": "hi"}])
        except BudgetExceeded as denial:
            if wrapped:
                raise ValueError("the framework's own") from denial
            raise
    run = otelbudget.current_run()
    return "nobody" if run is None else run.tenant


@app.task(autoretry_for=(Exception,), default_retry_delay=0, max_retries=3)
def by_itself(tenant: str) -> None:
    fruitless(tenant)


@app.task(bind=True, default_retry_delay=0, max_retries=3)
def by_hand(task: Task, tenant: str) -> None:
    try:
        fruitless(tenant)
    except Exception as error:  # noqa: BLE001
        raise task.retry(exc=error)  # noqa: B904 - as Celery's users do


@app.task(bind=True, default_retry_delay=0, max_retries=3)
def by_hand_as_another(task: Task, tenant: str) -> None:
    try:
        fruitless(tenant)
    except Exception:  # noqa: BLE001
        raise task.retry(exc=LookupError("try again"))  # noqa: B904 - as Celery's users do


def fruitless(tenant: str) -> None:
    ATTEMPTS.append(tenant)
    with openai.OpenAI(max_retries=0) as client, otelbudget.run("two", tenant=tenant):
        while True:
            client.chat.completions.create(model="demo-small", messages=[{"role": "user", "content": "hi"}])


@pytest.fixture
def worker(setup: Setup, server: Provider) -> Iterator[Provider]:
    setup("budgets:\n  two: {max_steps: 2}\n")
    ATTEMPTS.clear()
    with start_worker(app, pool="solo", perform_ping_check=False):
        yield server


def test_each_execution_is_a_run_of_its_tenant(worker: Provider) -> None:
    assert [work.delay("acme", 2).get(timeout=30) for _ in range(2)] == ["acme", "acme"]
    assert worker.requests == 4


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_denial_fails_the_task_at_once(worker: Provider, wrapped: bool) -> None:
    with pytest.raises(BudgetExceeded):
        work.delay("acme", 3, wrapped).get(timeout=30)
    assert ATTEMPTS == ["acme"]
    assert worker.requests == 2


@pytest.mark.parametrize("task", [by_itself, by_hand, by_hand_as_another])
def test_no_denial_is_retried_after_setup_alone(worker: Provider, task: Task) -> None:
    with pytest.raises(BudgetExceeded):
        task.delay("acme").get(timeout=30)
    assert ATTEMPTS == ["acme"]
    assert worker.requests == 2


def test_it_is_taken_out_again(setup: Setup) -> None:
    before = Task.retry.__code__
    for _ in range(2):
        setup()
        assert Task.retry.__code__ is not before
        otelbudget.shutdown()
        assert Task.retry.__code__ is before


def test_other_errors_are_retried_as_before(worker: Provider) -> None:
    assert work.delay("acme", -1).get(timeout=30) == "acme"
    assert len(ATTEMPTS) == 3


def test_of_five_calls_two_are_made(worker: Provider, row: Callable[..., int]) -> None:
    task = work.delay
    assert row("celery", "celery.BudgetTask", lambda: task("acme", 5).get(timeout=30), allowed=2, budget=None) == 2
