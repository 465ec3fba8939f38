"""A run is not lost in threads and pools, and does not stay behind in a pool's threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from multiprocessing.pool import ThreadPool
from typing import Any

import pytest
from opentelemetry import context as otel_context
from wrapt import wrap_function_wrapper

from otelbudget.bootstrap.threads import carry_context, stop_carrying

KEY = otel_context.create_key("test")


def here() -> object:
    return otel_context.get_value(KEY)


class within:  # noqa: N801 - reads as a statement
    """A block whose context has *value* in it."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __enter__(self) -> None:
        self._token = otel_context.attach(otel_context.set_value(KEY, self._value))

    def __exit__(self, *_: object) -> None:
        otel_context.detach(self._token)


def in_thread(make: Callable[[Callable[[], None]], threading.Thread] | None = None) -> object:
    seen: list[object] = []

    def target() -> None:
        seen.append(here())

    thread = threading.Thread(target=target) if make is None else make(target)
    thread.start()
    thread.join()
    return seen[0]


@pytest.fixture(autouse=True)
def _carrying() -> Iterator[None]:
    carry_context()
    yield
    stop_carrying()


def test_a_thread_runs_in_the_context_that_started_it() -> None:
    with within("run"):
        assert in_thread() == "run"
        assert in_thread(lambda target: threading.Timer(0, target)) == "run"
    assert in_thread() is None


def test_a_subclass_with_its_own_run_runs_in_the_context_too() -> None:
    class Own(threading.Thread):
        seen: object = None

        def run(self) -> None:
            self.seen = here()

    thread = Own()
    with within("run"):
        thread.start()
    thread.join()
    assert thread.seen == "run"


def test_a_run_put_on_one_thread_object_is_called() -> None:
    seen: list[object] = []
    thread = threading.Thread()
    thread.run = lambda: seen.append(here())  # type: ignore[method-assign] # what some do
    with within("run"):
        thread.start()
    thread.join()
    assert seen == ["run"]


def test_a_pool_runs_each_task_in_the_context_that_submitted_it() -> None:
    with ThreadPoolExecutor(1) as pool:
        with within("first"):
            assert pool.submit(here).result() == "first"
            assert list(pool.map(lambda _: here(), range(2))) == ["first", "first"]
        assert pool.submit(here).result() is None
        with within("second"):
            assert pool.submit(here).result() == "second"


def test_a_pools_thread_keeps_nothing_of_the_context_that_started_it() -> None:
    with ThreadPoolExecutor(1) as pool:
        with within("first"):
            pool.submit(here).result()
        stop_carrying()
        assert pool.submit(here).result() is None


def test_a_multiprocessing_thread_pool_keeps_nothing_of_the_context_that_made_it() -> None:
    with within("run"):
        pool = ThreadPool(1)
    try:
        assert pool.apply(here) is None
    finally:
        pool.close()
        pool.join()


def test_a_task_that_fails_fails_as_before_and_leaves_no_context() -> None:
    def fail() -> None:
        raise ValueError("mine")

    with ThreadPoolExecutor(1) as pool:
        with within("run"), pytest.raises(ValueError, match="mine"):
            pool.submit(fail).result()
        assert pool.submit(here).result() is None


def test_carrying_twice_is_carrying_once_and_stopping_puts_everything_back() -> None:
    stop_carrying()
    start, submit = threading.Thread.start, ThreadPoolExecutor.submit
    codes = start.__code__, submit.__code__
    carry_context()
    carry_context()
    stop_carrying()
    assert (threading.Thread.start, ThreadPoolExecutor.submit) == (start, submit)
    assert (threading.Thread.start.__code__, ThreadPoolExecutor.submit.__code__) == codes
    with within("run"):
        assert in_thread() is None
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(here).result() is None


def through(wrapped: Callable[..., Any], _: Any, args: Any, kwargs: Any) -> Any:
    return wrapped(*args, **kwargs)


@pytest.mark.parametrize("ours_first", [True, False])
@pytest.mark.parametrize("ours_stops_first", [True, False])
def test_wrappers_of_others_come_and_go_in_any_order(ours_first: bool, ours_stops_first: bool) -> None:
    stop_carrying()
    original = threading.Thread.start
    code = original.__code__
    if ours_first:
        carry_context()
    # As the official threading instrumentor does; it takes itself out by putting __wrapped__ back.
    wrap_function_wrapper(threading.Thread, "start", through)
    try:
        if not ours_first:
            carry_context()
        with within("run"):
            assert in_thread() == "run"
        if ours_stops_first:
            stop_carrying()
            with within("run"):
                assert in_thread() is None
    finally:
        threading.Thread.start = threading.Thread.start.__wrapped__  # type: ignore[method-assign,attr-defined]
    if not ours_stops_first:
        with within("run"):
            assert in_thread() == "run"
        stop_carrying()
    assert threading.Thread.start is original
    assert original.__code__ is code


def test_a_plain_replacement_that_holds_the_original_carries_too() -> None:
    original = threading.Thread.start

    @wraps(original)
    def start(self: threading.Thread) -> None:
        original(self)

    stop_carrying()
    threading.Thread.start = start  # type: ignore[method-assign] # as error trackers do
    try:
        carry_context()
        with within("run"):
            assert in_thread() == "run"
    finally:
        threading.Thread.start = original  # type: ignore[method-assign]
