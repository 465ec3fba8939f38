"""Taking over functions in place."""

from __future__ import annotations

import asyncio
import functools
import inspect
import traceback
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from otelbudget.guards.patching import Takeover, innermost, reaches, subclasses


def _counting(calls: list[tuple[Any, ...]]) -> Callable[..., Any]:
    def guard(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return original(*args, **kwargs)

    return guard


class Base:
    def request(self, what: str, *, times: int = 1) -> str:
        """Say it."""
        return what * times

    async def arequest(self, what: str) -> str:
        await asyncio.sleep(0)
        return what


def test_a_function_captured_before_reaches_the_guard_and_one_given_back_does_too() -> None:
    captured = Base.request
    calls: list[tuple[Any, ...]] = []
    takeover = Takeover(Base.request, _counting(calls))
    try:
        assert captured(Base(), "a", times=2) == "aa"
        assert Base().request("b") == "b"
        Base.request = captured
        assert Base().request(what="c") == "c"
    finally:
        takeover.undo()
    assert len(calls) == 3
    assert Base().request("d") == "d"
    assert len(calls) == 3


def test_the_function_looks_as_before_while_it_is_taken_over_and_is_as_before_after() -> None:
    function = Base.request
    before = (function.__code__, function.__kwdefaults__, dict(vars(function)), inspect.signature(function))
    takeover = Takeover(function, _counting([]))
    assert inspect.signature(function) == before[3]
    assert (function.__name__, function.__qualname__, function.__doc__) == ("request", "Base.request", "Say it.")
    takeover.undo()
    assert (function.__code__, function.__kwdefaults__, dict(vars(function)), inspect.signature(function)) == before
    assert function.__code__ is before[0]
    assert Base.request is function


async def test_a_coroutine_function_stays_one() -> None:
    calls: list[tuple[Any, ...]] = []

    async def guard(original: Callable[..., Any], *args: Any) -> Any:
        calls.append(args)
        return await original(*args)

    takeover = Takeover(Base.arequest, guard)
    try:
        assert inspect.iscoroutinefunction(Base.arequest)
        assert await Base().arequest("a") == "a"
    finally:
        takeover.undo()
    assert len(calls) == 1


async def test_an_asynchronous_generator_is_read_through_the_guard_and_hears_how_it_ends() -> None:
    heard: list[object] = []

    async def pieces(n: int) -> AsyncGenerator[int, object]:
        try:
            for i in range(n):
                try:
                    heard.append((yield i))
                except LookupError:
                    yield -1
        except GeneratorExit:
            heard.append("closed")
            raise

    takeover = Takeover(pieces, lambda original, n: original(n + 1))
    assert [i async for i in pieces(2)] == [0, 1, 2]
    read = pieces(2)
    assert await anext(read) == 0
    assert await read.athrow(LookupError()) == -1
    with pytest.raises(KeyError):
        await read.athrow(KeyError())
    heard.clear()
    read = pieces(2)
    assert await anext(read) == 0
    assert await read.asend("sent") == 1
    await read.aclose()
    assert heard == ["sent", "closed"]
    takeover.undo()
    assert [i async for i in pieces(2)] == [0, 1]


def test_a_function_that_closes_over_variables_can_be_taken_over() -> None:
    kept = ["kept"]

    def function(n: int) -> tuple[str, int]:
        return kept[0], n

    takeover = Takeover(function, lambda original, n: original(n + 1))
    assert function(1) == ("kept", 2)
    takeover.undo()
    assert function(1) == ("kept", 1)


def _plain(kept: str) -> Any:
    def function() -> str:
        return kept

    return function, function


def _coroutine(kept: str) -> Any:
    async def function() -> str:
        return kept

    return function, lambda: asyncio.run(function())


def _generator(kept: str) -> Any:
    def function() -> Any:
        yield kept

    return function, lambda: next(function())


def _async_generator(kept: str) -> Any:
    async def function() -> Any:
        yield kept

    return function, lambda: asyncio.run(anext(function()))


@pytest.mark.parametrize("make", [_plain, _coroutine, _generator, _async_generator])
def test_the_variables_of_its_frame_can_be_read(make: Any) -> None:
    """Debuggers and reporters of errors do, with those that the function closes over."""
    function, call = make("kept")

    def guard(*_: Any) -> Any:
        raise LookupError

    takeover = Takeover(function, guard)
    with pytest.raises(LookupError) as caught:
        call()
    frames = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
    assert [frame.f_locals["kept"] for frame in frames if frame.f_code is function.__code__] == ["kept"]
    takeover.undo()
    assert call() == "kept"


def test_undo_leaves_code_that_another_tool_has_put_in_and_lets_its_calls_pass() -> None:
    calls: list[tuple[Any, ...]] = []

    def function(n: int) -> int:
        return n

    first = Takeover(function, _counting(calls))
    second = Takeover(function, lambda original, n: original(n) * 10)
    first.undo()
    assert function(2) == 20
    assert calls == []
    second.undo()
    assert function(2) == 2


def test_the_function_under_wrappers_is_found() -> None:
    def function() -> None: ...

    @functools.wraps(function)
    def wrapper() -> None: ...

    @functools.wraps(wrapper)
    def outer() -> None: ...

    assert innermost(outer) is function
    assert innermost(Base().request) is Base.request
    assert innermost(len) is None


def test_subclasses_are_found_once_each() -> None:
    class Left(Base): ...

    class Right(Base): ...

    class Both(Left, Right): ...

    assert list(subclasses(Left, Right)) == [Left, Right, Both]


@pytest.fixture
def takeover() -> Any:
    calls: list[tuple[Any, ...]] = []
    takeover = Takeover(Base.request, _counting(calls))
    yield takeover
    takeover.undo()
    assert calls == []  # a probe is no call


def test_wrappers_overrides_and_closures_that_pass_calls_on_reach_the_guard(takeover: Takeover) -> None:
    original = Base.request

    class Override(Base):
        def request(self, what: str, *, times: int = 1) -> str:
            return super().request(what, times=times)

    class Wrapped(Base):
        request = functools.wraps(original)(lambda self, what: original(self, what))

    class Closure(Base):
        request = lambda self, what: original(self, what)  # noqa: E731 - as a patch puts it there

    for cls in (Base, Override, Wrapped, Closure):
        assert reaches(cls, "request", takeover.takes)


def test_a_class_that_goes_its_own_way_does_not_reach_the_guard(takeover: Takeover) -> None:
    class Own(Base):
        def request(self, what: str, *, times: int = 1) -> str:
            return what

    class Foreign(Base):
        request = print  # type: ignore[assignment]

    assert not reaches(Own, "request", takeover.takes)
    assert not reaches(Foreign, "request", takeover.takes)


def test_a_guard_that_was_taken_out_is_not_reached(takeover: Takeover) -> None:
    takeover.undo()
    assert not reaches(Base, "request", takeover.takes)
