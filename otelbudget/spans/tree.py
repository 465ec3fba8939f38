"""The tree of the spans that are open in this process; a `Node` is one of them, as budgets see it."""

from __future__ import annotations

import threading
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from weakref import ref

from opentelemetry import trace

from otelbudget import forking
from otelbudget.spans.conventions import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentelemetry.context import Context
    from opentelemetry.trace import Span

    from otelbudget.calls.model_call import ModelCall
    from otelbudget.runs.run import BudgetRun
    from otelbudget.runs.tool_call import ToolCall

__all__ = ["OURS", "LooseSpan", "Node", "SpanTree"]

#: Instrumentation scope of the spans that otelbudget opens itself.
OURS: Final = "otelbudget"


class Node:
    """One open span.

    Attributes:
        parent: The span around it, if that is open in this process.
        within: It is an agent's, tool's or model's span or inside of one, so what is inside has to be heard of.
        context: What it started in.
        ended: It has ended.
        inner: A model call was made inside it, so a usage that it reports is that call's.
        ours: otelbudget opened it.
        run: The implicit run that it carries, from the first call inside it.
        call: The model call it stands for, where it was admitted here.
        outer: The span around it that the call was admitted for, if it was not this one.
        lent: A span inside has taken over the call, so no other one can.
        scope: Name of its instrumentation scope.
        tool: The tool call it stands for.
        claimed: A guard has taken it as the span of its call.
    """

    # fmt: off
    __slots__ = (
        "_span", "call", "claimed", "context", "ended", "inner", "kind", "lent", "name", "ours", "outer", "parent",
        "run", "scope", "span_id", "tool", "trace_id", "within",
    )
    # fmt: on

    def __init__(
        self,
        span: Any,
        parent: Node | None,
        kind: Kind | None,
        scope: str | None,
        context: Context,
        lost: Callable[[object], None],
    ) -> None:
        own = span.get_span_context()
        self.span_id: int = own.span_id
        self.trace_id: int = own.trace_id
        # Weak: a span that is dropped without ever being ended takes its node, and what that holds, with it.
        self._span = ref(span, lost)
        self.parent = parent
        self.kind = kind
        self.name: str | None = None
        self.scope = scope
        self.ours = scope == OURS
        self.within: bool = kind is not None or (parent is not None and parent.within)
        self.run: BudgetRun | None = None
        self.call: ModelCall | None = None
        self.outer: Node | None = None
        self.context = context
        self.lent = self.claimed = self.ended = self.inner = False
        self.tool: ToolCall | None = None

    @property
    def span(self) -> Any:
        """The span; None if it was dropped without being ended."""
        return self._span()

    def upwards(self) -> Iterator[Node]:
        """This node, then all around it."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent


class LooseSpan(trace.NonRecordingSpan):
    """A span that can be written to as long as somebody else holds on to it: what an implicit run has of its span.

    If the run kept it alive, one that is never ended would stay for good, since it is by its end that runs close.
    """

    def __init__(self, span: Span) -> None:
        super().__init__(span.get_span_context())
        self._span = ref(span)

    def is_recording(self) -> bool:
        """Whether it is still there and recording."""
        span = self._span()
        return span is not None and span.is_recording()

    def set_attribute(self, key: str, value: Any) -> None:
        """As of any span."""
        span = self._span()
        if span is not None:
            span.set_attribute(key, value)

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        """As of any span."""
        span = self._span()
        if span is not None:
            span.add_event(name, attributes, timestamp)

    def __getattr__(self, name: str) -> Any:
        """What the SDK's span shows of itself beyond the API: its attributes, events and limits."""
        return getattr(self._span(), name)


class SpanTree:
    """The nodes of all open spans. Any thread may ask; nothing here waits for the engine.

    Attributes:
        lost: Implicit runs whose span was dropped without being ended.
    """

    def __init__(self) -> None:
        self.lost: deque[BudgetRun] = deque()
        self._nodes: dict[int, Node] = {}
        self._roots: dict[int, list[Node]] = {}  # a distributed trace may have several in one process
        self._dropped: list[int] = []  # traces whose roots may have gone
        self._lock = forking.fresh(threading.RLock())

    def __len__(self) -> int:
        """How many spans, and roots among them, are noted as open."""
        return len(self._nodes) + sum(map(len, self._roots.values()))

    def node(self, span: Span) -> Node | None:
        """The node of *span*, if it is open."""
        return self._nodes.get(span.get_span_context().span_id)

    def at(self, context: Context, *, exact: bool = False) -> Node | None:
        """The open span of *context*; for one that was not recorded the local root of its trace, unless *exact*."""
        own = trace.get_current_span(context).get_span_context()
        node = self._nodes.get(own.span_id)
        if node is None and not exact and own.trace_id and not own.is_remote:
            *_, node = self._roots.get(own.trace_id) or (None,)
        return node

    def roots(self, trace_id: int) -> int:
        """How many local roots of a trace are open."""
        return len(self._roots.get(trace_id, ()))

    def add(self, span: Any, kind: Kind | None, scope: str | None, context: Context) -> Node:
        """Note a span that has started in *context*."""
        own = span.get_span_context()
        node = Node(span, self.at(context), kind, scope, context, partial(self._lost, own.span_id, own.trace_id))
        self._nodes[own.span_id] = node
        if self._dropped:
            dropped, self._dropped = self._dropped, []
            for trace_id in dropped:
                self._prune(trace_id)
        if node.parent is None:
            with self._lock:
                self._roots.setdefault(own.trace_id, []).append(node)
        return node

    def forget(self, node: Node) -> None:
        """Let go of a span that has ended."""
        self._nodes.pop(node.span_id, None)
        if node.parent is None:
            self._prune(node.trace_id, node)

    def _prune(self, trace_id: int, gone: Node | None = None) -> None:
        """Forget the roots of a trace that are *gone*, or whose span was dropped without being ended."""
        with self._lock:
            others = [root for root in self._roots.get(trace_id, ()) if root is not gone and root.span is not None]
            self._roots[trace_id] = others
            if not others:
                del self._roots[trace_id]

    def _lost(self, span_id: int, trace_id: int, _: object) -> None:
        """A span was dropped without being ended; called by the garbage collector, so it takes no lock."""
        node = self._nodes.pop(span_id, None)
        if node is not None and node.run is not None:
            self.lost.append(node.run)
        if trace_id in self._roots:
            self._dropped.append(trace_id)
