from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any

import pytest
from opentelemetry.context import get_current
from world import World

import otelbudget
from otelbudget import BudgetExceeded, Config, ConfigError, Quota, RunBudget, current_run
from otelbudget.engine import context
from otelbudget.model.quota import Quotas
from otelbudget.runs.run import BudgetRun

THREE = RunBudget(max_steps=3)


@pytest.fixture(autouse=True)
def active(world: World) -> None:
    world.activate()


def here() -> BudgetRun:
    run = current_run()
    assert run is not None
    return run


def test_a_function_has_a_run_per_call_and_keeps_its_name(world: World) -> None:
    @world.run(THREE)
    def work(number: int, *, more: int = 0) -> BudgetRun:
        """Works."""
        here().record_call(number + more)
        return here()

    first, second = work(1), work(2, more=3)
    assert first is not second
    assert (first.usage.tokens, second.usage.tokens, first.state) == (1, 5, "closed")
    assert (work.__name__, work.__doc__) == ("work", "Works.")
    assert current_run() is None


async def test_a_coroutine_has_a_run_per_call(world: World) -> None:
    @world.run(THREE)
    async def work(number: int) -> BudgetRun:
        run = here()
        await asyncio.sleep(0)
        assert here() == run
        run.record_call(number)
        return run

    runs = await asyncio.gather(work(1), work(2))
    assert [run.usage.tokens for run in runs] == [1, 2]


def test_a_decorated_function_raises_a_swallowed_denial_at_its_end(world: World) -> None:
    @world.run(RunBudget(max_steps=0))
    def work() -> str:
        with pytest.raises(BudgetExceeded):
            here().check()
        return "done"

    with pytest.raises(BudgetExceeded):
        work()


def test_a_generator_holds_its_run_only_while_its_body_executes(world: World) -> None:
    seen: list[BudgetRun] = []

    @world.run(THREE)
    def work() -> Generator[int, int, str]:
        seen.append(here())
        sent = 0
        for i in range(3):
            assert here() == seen[0]
            here().record_call(sent)
            sent = yield i
        return "end"

    before = get_current()
    generator = work()
    assert not world.engine.meters.live
    assert next(generator) == 0
    assert get_current() == before
    assert generator.send(10) == 1
    assert generator.send(20) == 2
    assert get_current() == before
    with pytest.raises(StopIteration) as stop:
        generator.send(0)
    assert stop.value.value == "end"
    assert (seen[0].usage.tokens, seen[0].state) == (30, "closed")


def test_a_generator_sees_what_is_thrown_and_its_answer_counts(world: World) -> None:
    @world.run(THREE)
    def work() -> Generator[str, None, None]:
        try:
            yield "first"
        except ValueError:
            here().record_call(1)
            yield "caught"

    generator = work()
    assert next(generator) == "first"
    assert generator.throw(ValueError()) == "caught"
    with pytest.raises(KeyError):
        generator.throw(KeyError())
    (span,) = world.spans("otelbudget.run")
    assert (span.attributes or {})["otelbudget.outcome"] == "error"


def test_a_closed_generator_closes_its_body_in_its_run_and_then_the_run(world: World) -> None:
    ended: list[tuple[BudgetRun, str]] = []

    @world.run(THREE)
    def work() -> Iterator[int]:
        try:
            yield 1
        finally:
            ended.append((here(), here().state))

    generator: Any = work()
    next(generator)
    generator.close()
    ((run, state),) = ended
    assert (state, run.state) == ("active", "closed")
    abandoned: Any = work()
    next(abandoned)
    del abandoned
    assert len(ended) == 2
    assert len(world.spans("otelbudget.run")) == 2


def test_a_generator_raises_a_swallowed_denial_when_it_is_exhausted_but_not_when_closed(world: World) -> None:
    @world.run(RunBudget(max_steps=0))
    def work() -> Iterator[int]:
        with pytest.raises(BudgetExceeded):
            here().check()
        yield 1

    with pytest.raises(BudgetExceeded):
        list(work())
    generator: Any = work()
    next(generator)
    generator.close()


async def test_an_async_generator_holds_its_run_only_while_its_body_executes(world: World) -> None:
    seen: list[BudgetRun] = []

    @world.run(THREE)
    async def work() -> AsyncIterator[int]:
        seen.append(here())
        for i in range(3):
            await asyncio.sleep(0)
            assert here() == seen[0]
            here().record_call(5)
            yield i

    async for _ in work():
        assert current_run() is None
    assert (seen[0].usage.tokens, seen[0].state) == (15, "closed")


async def test_an_async_generator_is_closed_from_another_task_without_a_complaint(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    ended: list[BudgetRun] = []

    @world.run(THREE)
    async def work() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            ended.append(here())

    generator: Any = work()
    assert await anext(generator) == 1
    await asyncio.create_task(generator.aclose())
    assert ended[0].state == "closed"
    assert "detach" not in caplog.text


async def test_an_async_generator_sees_what_is_sent_and_thrown(world: World) -> None:
    @world.run(THREE)
    async def work() -> Any:
        sent = yield "first"
        here().record_call(sent)
        try:
            yield "second"
        except ValueError:
            yield "caught"

    generator = work()
    assert await anext(generator) == "first"
    assert await generator.asend(7) == "second"
    assert await generator.athrow(ValueError()) == "caught"
    with pytest.raises(StopAsyncIteration):
        await anext(generator)
    (span,) = world.spans("otelbudget.run")
    assert (span.attributes or {})["otelbudget.used.tokens"] == 7


async def test_cancelling_inside_an_async_generator_ends_its_run(world: World) -> None:
    started = asyncio.Event()
    seen: list[BudgetRun] = []

    @world.run(RunBudget(max_steps=0))
    async def work() -> AsyncIterator[int]:
        seen.append(here())
        with pytest.raises(BudgetExceeded):
            here().check()
        started.set()
        await asyncio.sleep(60)
        yield 1

    async def consume() -> None:
        async for _ in work():
            pass

    task = asyncio.create_task(consume())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen[0].state == "closed"


def test_two_generators_side_by_side_do_not_mix(world: World) -> None:
    @world.run(RunBudget(max_steps=9))
    def work(tokens: int) -> Iterator[int]:
        for _ in range(3):
            here().record_call(tokens)
            yield here().usage.tokens or 0

    assert list(zip(work(1), work(10), strict=True)) == [(1, 10), (2, 20), (3, 30)]


def test_a_generator_inside_a_run_is_part_of_it(world: World) -> None:
    @world.run(THREE)
    def work() -> Iterator[int]:
        here().record_call(5)
        yield 1

    with world.run() as run:
        assert list(work()) == [1]
        assert run.usage.tokens == 5
        assert current_run() == run


def plain_wrapper(function: Any) -> Any:
    """As retry decorators are: no coroutine and no generator function itself."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


async def test_what_another_decorator_has_wrapped_runs_inside_the_run_too(world: World) -> None:
    @world.run(THREE)
    @plain_wrapper
    async def coroutine() -> BudgetRun:
        await asyncio.sleep(0)
        return here()

    @world.run(THREE)
    @plain_wrapper
    def generator() -> Iterator[BudgetRun]:
        yield here()

    @world.run(THREE)
    @plain_wrapper
    async def async_generator() -> AsyncIterator[BudgetRun]:
        yield here()

    class Agent:
        async def __call__(self) -> BudgetRun:
            return here()

    runs = [await coroutine(), next(generator()), await anext(async_generator()), await world.run(THREE)(Agent())()]
    assert [run.budget for run in runs] == [THREE] * 4
    assert len(set(runs)) == 4


def test_a_generator_in_two_runs_is_bound_by_both(world: World) -> None:
    @world.run(RunBudget(max_steps=2), reraise=False)
    @world.run(RunBudget(max_steps=100), reraise=False)
    def work() -> Iterator[int]:
        for i in range(5):
            here().check()
            here().record_call(1)
            yield i

    with pytest.raises(BudgetExceeded):
        list(work())


def test_a_class_is_no_function_to_put_a_run_around(world: World) -> None:
    class Agent:
        """Does nothing."""

    with pytest.raises(TypeError, match="Agent is a class"):
        world.run(THREE)(Agent)


def test_a_decorator_that_is_older_than_the_setup_follows_its_names_and_quotas(
    world: World, make_world: Callable[..., World]
) -> None:
    context.deactivate(world.engine)

    @otelbudget.run("quick")
    def work() -> float:
        left: float = here().remaining()["tokens"]
        return left

    with pytest.raises(ConfigError, match="'quick'"):
        work()
    with pytest.raises(ConfigError, match="a budget is a name or a RunBudget, got 5"):
        otelbudget.run(5)  # type: ignore[arg-type]
    quotas = Quotas(default=(Quota(tokens=20),))
    make_world(config=Config({"quick": RunBudget(max_tokens=50)}, quotas=quotas)).activate()
    assert work() == 20


def test_a_decorator_follows_a_reload(world: World) -> None:
    world.manager.reload(Config({"quick": RunBudget(max_steps=5)}))

    @world.run("quick")
    def work() -> int:
        left: int = here().remaining()["steps"]
        return left

    assert work() == 5
    world.manager.reload(Config({"quick": RunBudget(max_steps=2)}))
    assert work() == 2
