"""The tree of the spans that are open in this process; a `Node` is one of them, as budgets see it."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from weakref import ref

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span

from otelbudget import forking
from otelbudget.admission.state import RunState
from otelbudget.engine import context as contexts
from otelbudget.runs.tool_call import ToolCall
from otelbudget.spans.conventions import Kind

#: Instrumentation scope of the spans that otelbudget opens itself.
OURS: Final = "otelbudget"


@dataclass(slots=True, eq=False, repr=False)
class Node:
    """One open span."""

    span_id: int
    trace_id: int
    #: Weak: a span that is dropped without ever being ended takes its node, and what that holds, with it.
    weak: ref[Any]
    #: The span around it, if that is open in this process; and what it started in.
    parent: Node | None
    context: Context
    kind: Kind | None
    #: Name of its instrumentation scope, and whether that is otelbudget's own.
    scope: str | None
    ours: bool
    #: Of an agent, and as the span says it belongs to.
    name: str | None = None
    conversation: str | None = None
    #: The implicit run that it carries, from the first call inside it.
    run: RunState | None = None
    #: What it stands for, where that was admitted here: a `ModelCall` or a tool call.
    call: Any = None
    tool: ToolCall | None = None
    #: The span around it that the call was admitted for, if it was not this one.
    outer: Node | None = None
    #: A span inside has taken over the call, so no other one can; a guard has taken it as the span of its call.
    lent: bool = False
    claimed: bool = False
    #: A model call was made inside it, so a usage that it reports is that call's.
    inner: bool = False
    ended: bool = False

    @property
    def span(self) -> Any:
        """The span; None if it was dropped without being ended."""
        return self.weak()

    @property
    def reserves(self) -> bool:
        """It has a call that neither a guard nor a span inside has taken over."""
        call = self.call
        return call is not None and not (call.adopted or call.settled or self.lent)

    def take(self, flag: str) -> bool:
        """Set a flag; False if it was set. Called with the ledger's lock held."""
        taken: bool = getattr(self, flag)
        setattr(self, flag, True)
        return not taken

    def upwards(self) -> list[Node]:
        """This node, then all around it."""
        found, node = [self], self.parent
        while node is not None:
            found.append(node)
            node = node.parent
        return found


def _handed_on(name: str) -> Any:
    def method(self: LooseSpan, *args: Any) -> Any:
        return getattr(self._span() or trace.INVALID_SPAN, name)(*args)

    return method


class LooseSpan(trace.NonRecordingSpan):
    """A span that can be written to as long as somebody else holds on to it: what an implicit run has of its span.

    If the run kept it alive, one that is never ended would stay for good, since it is by its end that runs close.
    """

    is_recording, add_event = _handed_on("is_recording"), _handed_on("add_event")
    set_attribute, set_attributes = _handed_on("set_attribute"), _handed_on("set_attributes")

    def __init__(self, span: Span) -> None:
        super().__init__(span.get_span_context())
        self._span = ref(span)

    def __getattr__(self, name: str) -> Any:
        """What the SDK's span shows of itself beyond the API: its attributes, events and limits."""
        return getattr(self._span(), name)


class UnheardSpan(trace.NonRecordingSpan):
    """A piece of work whose span the provider drops, doesn't make or doesn't show us: noted, and never current.

    Attributes:
        shown: What the provider has made, to be current.
    """

    is_recording, set_status = _handed_on("is_recording"), _handed_on("set_status")
    record_exception = _handed_on("record_exception")
    status: Final = trace.Status()

    def __init__(self, shown: Span, ended: Callable[[Span], None]) -> None:
        super().__init__(trace.SpanContext(0, secrets.randbits(64), is_remote=False))
        self.shown = shown
        self._span = lambda: shown
        self._ended = ended

    def end(self, end_time: int | None = None) -> None:  # noqa: ARG002 - the API's signature
        """Say that it has ended."""
        if self.is_recording():
            self.shown.end()
        self._ended(self)


def within(span: Span) -> Context:
    """The context of here inside of *span*, one of ours."""
    if isinstance(span, UnheardSpan):
        return contexts.WORK.put(trace.set_span_in_context(span.shown), span.get_span_context().span_id)
    return trace.set_span_in_context(span)


class SpanTree:
    """The nodes of all open spans. Any thread may ask; nothing here waits for the engine."""

    def __init__(self) -> None:
        self.lost: deque[RunState] = deque()  # whose span was dropped without being ended
        self._nodes: dict[int, Node] = {}
        self._roots: dict[int, list[Node]] = {}  # a distributed trace may have several in one process
        self._lock = forking.fresh_lock()

    def __len__(self) -> int:
        """How many spans, and roots among them, are noted as open."""
        return len(self._nodes) + sum(map(len, self._roots.values()))

    def node(self, span: Span) -> Node | None:
        """The node of *span*, if it is open."""
        return self._nodes.get(span.get_span_context().span_id)

    def at(self, context: Context, *, exact: bool = False) -> Node | None:
        """The open span of *context*; for one that was not recorded the local root of its trace, unless *exact*."""
        own = trace.get_current_span(context).get_span_context()
        node, work = self._nodes.get(own.span_id), None if exact else self._nodes.get(contexts.WORK.of(context))
        if work is not None and (node is None or node in work.upwards()):
            return work
        if node is None and not exact and own.trace_id and not own.is_remote:
            *_, node = self._roots.get(own.trace_id) or (None,)
        return node

    def around(self, context: Context, *, exact: bool = False) -> list[Node]:
        """The open span of *context*, as `at` has it, and all around it, innermost first."""
        node = self.at(context, exact=exact)
        return [] if node is None else node.upwards()

    def roots(self, trace_id: int) -> int:
        """How many local roots of a trace are open."""
        return len(self._roots.get(trace_id, ()))

    def add(self, span: Any, kind: Kind | None, scope: str | None, context: Context) -> Node | None:
        """Note a span that has started in *context*; None if it was noted before."""
        own = span.get_span_context()
        known = self._nodes.get(own.span_id)
        if known is not None and known.span is span:
            return None
        weak = ref(span, partial(self._lost, own.span_id, own.trace_id))
        node = Node(own.span_id, own.trace_id, weak, self.at(context), context, kind, scope, scope == OURS)
        self._nodes[own.span_id] = node
        if node.parent is None:
            with self._lock:
                self._roots.setdefault(own.trace_id, []).append(node)
        return node

    def forget(self, span: Any) -> Node | None:
        """Let go of a span that has ended; gives its node, None if it was not noted."""
        node = self._nodes.pop(span.get_span_context().span_id, None)
        if node is not None and node.parent is None:
            with self._lock:  # no loop stands directly in here, see `ledger.lock`
                self._prune(node)
        return node

    def _prune(self, root: Node) -> None:
        roots = self._roots.pop(root.trace_id, ())
        if others := [one for one in roots if one is not root and one.span is not None]:
            self._roots[root.trace_id] = others

    def _lost(self, span_id: int, trace_id: int, _: object) -> None:
        """A span was dropped without being ended; called by the garbage collector, so it takes no lock."""
        node = self._nodes.pop(span_id, None)
        if node is not None and node.run is not None:
            self.lost.append(node.run)
        if node is not None and node.parent is None:
            self._roots.pop(trace_id, None)  # others of this trace, which are rarer still, are found by their spans


def names_of(nodes: Sequence[Node]) -> tuple[str | None, str | None]:
    """The names of the innermost agent and conversation of *nodes*; None where no span says."""
    agents = (one.name for one in nodes if one.name is not None)
    conversations = (one.conversation for one in nodes if one.conversation is not None)
    return next(agents, None), next(conversations, None)
