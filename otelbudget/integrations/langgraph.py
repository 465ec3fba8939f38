"""For LangGraph: `budget_graphs()` gives agents the budgets and the quotas of their names.

`setup()` calls it where LangGraph is imported. An agent is what `create_agent` was given a ``name`` for, and each graph
whose name the configuration has among its agents, whenever it was made, also inside of another one.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final

from opentelemetry.context import Context, get_current
from opentelemetry.trace import Span, StatusCode

from otelbudget import forking
from otelbudget.engine import context as contexts
from otelbudget.integrations import hooks
from otelbudget.integrations.entries import Entries
from otelbudget.runs.decorator import driven, driven_async
from otelbudget.spans.tree import within

try:
    from langgraph.errors import GraphBubbleUp
    from langgraph.pregel import _retry
    from langgraph.pregel.main import Pregel
except ImportError as missing:
    raise ImportError("this is for LangGraph 1.0 or newer: pip install 'otelbudget[langchain]'") from missing

Chunks = Generator[Any, Any, Any]
AsyncChunks = AsyncGenerator[Any, Any]
#: What the agent is invoked for that does its work here.
_WORK: Final = contexts.Slot("otelbudget-langgraph")


def budget_graphs() -> Callable[[], None]:
    """From now on, do what each agent in this process is invoked for as its piece of work. Gives what ends that."""
    return Entries(
        (Pregel, "stream", _stream),  # what is invoked is streamed, too
        (Pregel, "astream", _astream),
        (_retry, "run_with_retry", _node),
        (_retry, "arun_with_retry", _anode),
    )


def _stream(original: Callable[..., Chunks], graph: Any, *args: Any, **options: Any) -> Chunks:
    name, chunks = _name(graph), original(graph, *args, **options)
    return chunks if name is None else driven(_Work(name).opened(), chunks)


def _astream(original: Callable[..., AsyncChunks], graph: Any, *args: Any, **options: Any) -> AsyncChunks:
    name, chunks = _name(graph), original(graph, *args, **options)
    return chunks if name is None else driven_async(_Work(name).opened(), chunks)


def _name(graph: Any) -> str | None:
    """The name of the agent that *graph* is, or None."""
    named: str | None = (graph.config or {}).get("metadata", {}).get("lc_agent_name")
    return named or (graph.name if graph.name != Pregel.name and hooks.known(graph.name) else None)


def _node(original: Callable[..., Any], *args: Any, **options: Any) -> Any:
    with _inside():
        return original(*args, **options)


async def _anode(original: Callable[..., Awaitable[Any]], *args: Any, **options: Any) -> Any:
    with _inside():
        return await original(*args, **options)


def _inside() -> AbstractContextManager[None]:
    work: _Work | None = _WORK.of(get_current())
    span = None if work is None else work.span()
    if span is None:
        return nullcontext()
    return contexts.attached(_WORK.put(within(span), None))  # graphs in it are inside already


class _Work:
    """What an agent is invoked for once: a span that begins in the first node, inside of what instrumentations open.

    It is current in nodes alone. Around all of the graph they would put it back when they end: some do so later.
    """

    def __init__(self, name: str) -> None:
        self._begin: Callable[[], Span | None] = lambda: hooks.agent_span(name)
        self._span: Span | None = None
        self._lock = forking.fresh_lock()

    def span(self) -> Span | None:
        """It; None where an instrumentation's is there, and after the end."""
        with self._lock:
            self._span, self._begin = self._begin(), lambda: self._span
            return self._span

    @contextmanager
    def opened(self) -> Iterator[Context]:
        """A block for the graph, which gets the context in which its nodes find this."""
        try:
            yield _WORK.put(get_current(), self)
        except Exception as error:
            if self._span is not None and not isinstance(error, GraphBubbleUp):  # that pauses it, or hands over
                self._span.set_status(StatusCode.ERROR)
            raise
        finally:
            with self._lock:
                span, self._span, self._begin = self._span, None, lambda: None
            if span is not None:
                span.end()
