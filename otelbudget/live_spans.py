"""The spans that are open in this process, as budgets see them: whose run a span is in, which call it is.

`BudgetManager` feeds it from `on_start` and `on_end`. A model span whose SDK has a reachable guard is only noted. Any
other model or tool span is admitted here: its hold is provisional, a guard inside takes it over, else the span's own
usage is charged at its end. An agent's span, or the local root of a request or job, is an implicit run from the first
call inside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.context import Context, get_current

from otelbudget import scope, spans
from otelbudget.calls import ModelCall, ModelRequest
from otelbudget.runs import closing, denying, tools
from otelbudget.runs.run import BudgetRun
from otelbudget.spans import Kind
from otelbudget.telemetry.events import site_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opentelemetry.trace import Span

    from otelbudget.engine import Engine
    from otelbudget.runs.tools import ToolCall

__all__ = ["LiveSpans", "Node"]

#: Instrumentation scope of the spans that otelbudget opens itself.
OURS = "otelbudget"


class Node:
    """One open span.

    Attributes:
        parent: The span around it, if that is open in this process.
        in_agent: It is an agent's span or inside of one.
        ours: otelbudget opened it.
        run: The implicit run that it carries, from the first call inside it.
        call: The model call it stands for, where it was admitted here.
        outer: That call was admitted for a span around it.
        tool: The tool call it stands for.
        claimed: A guard has taken it as the span of its call.
    """

    __slots__ = ("call", "claimed", "in_agent", "kind", "name", "ours", "outer", "parent", "run", "span", "tool")

    def __init__(self, span: Any, parent: Node | None, kind: Kind | None, *, ours: bool) -> None:
        self.span = span
        self.parent = parent
        self.kind = kind
        self.name: str | None = None
        self.ours = ours
        self.in_agent: bool = kind is Kind.AGENT or (parent is not None and parent.in_agent)
        self.run: BudgetRun | None = None
        self.call: ModelCall | None = None
        self.outer = self.claimed = False
        self.tool: ToolCall | None = None

    def upwards(self) -> Iterator[Node]:
        """This node, then all around it."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent


class LiveSpans:
    """All open spans of the providers that a manager listens to."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._nodes: dict[int, Node] = {}
        self._roots: dict[int, Node] = {}

    # --- what the SDK tells

    def started(self, span: Any, parent_context: Context | None) -> None:
        """Note a span; admit what it stands for.

        Raises:
            BudgetExceeded: It is a model or tool call that can't be paid for; the span has its check event.
        """
        context = get_current() if parent_context is None else parent_context
        scope_name = None if span.instrumentation_scope is None else span.instrumentation_scope.name
        kind = spans.classify(span.name, span.attributes, scope_name)
        node = Node(span, self._at(context, exact=True), kind, ours=scope_name == OURS)
        own = span.get_span_context()
        self._nodes[own.span_id] = node
        if node.parent is None:
            self._roots[own.trace_id] = node
        if node.ours or kind is None:
            return
        try:
            self._admit(node, context, scope_name)
        except BaseException:
            self._forget(node)
            raise

    def ended(self, span: Any) -> None:
        """Charge what an unguarded model span used; end the implicit run of its span."""
        node = self._nodes.get(span.get_span_context().span_id)
        if node is None:
            return
        self._forget(node)
        if node.call is not None and not node.call.adopted and not node.call.settled:
            self._settle(node.call, span, outer=node.outer)
        if node.run is not None:
            failed = span.status.status_code is trace.StatusCode.ERROR
            closing.close(node.run, "exhausted" if node.run.denials else "error" if failed else "completed")

    def _forget(self, node: Node) -> None:
        own = node.span.get_span_context()
        self._nodes.pop(own.span_id, None)
        if self._roots.get(own.trace_id) is node:
            del self._roots[own.trace_id]

    def _admit(self, node: Node, context: Context, scope_name: str | None) -> None:
        attributes = node.span.attributes
        if node.kind is Kind.AGENT:
            node.name = spans.agent_name(attributes)
        elif node.kind is Kind.TOOL:
            self._admit_tool(node, context)
        elif spans.covered_sdk(scope_name) not in self._engine.guarded:
            self._admit_call(node, context, attributes)

    def _admit_tool(self, node: Node, context: Context) -> None:
        attributes = node.span.attributes
        run = self._payer(context)
        name = spans.tool_name(attributes) or node.span.name
        call = tools.ToolCall(run, name, spans.tool_call_id(attributes), from_span=True)
        outer = tools.enclosing(context, run)
        if outer is None or not outer.covers(call.name, call.call_id):
            denying.decide(run, tools.ask_for(nested=outer is not None, site=site_of(node.span)))
        node.tool = call

    def _admit_call(self, node: Node, context: Context, attributes: Mapping[str, Any]) -> None:
        run = self._payer(context)
        tool = scope.tool_call_in(context) or self.tool_call_around(context)
        if tool is not None:
            tool.model_called = True
        around = self.reserved_around(context, run)
        if around is not None:
            node.call, node.outer = around, True
            return
        request = ModelRequest(
            provider=spans.provider_name(attributes) or "unknown",
            operation=spans.operation(attributes),
            model=spans.model_name(attributes),
            input_tokens=1,
            max_output_tokens=spans.max_output_tokens(attributes),
        )
        call = ModelCall(run, request, site_of(node.span))
        denying.decide(run, call.ask())
        node.call = call

    def _payer(self, context: Context) -> BudgetRun:
        return scope.run_in(context) or self.run_of(context) or self._engine.ambient_run()

    def _settle(self, call: ModelCall, span: Any, *, outer: bool) -> None:
        usage = spans.usage_from(span.attributes)
        if usage is not None and self._engine.was_settled(call.run, usage, span.start_time, span.end_time):
            call.release()  # a guard or another layer has charged this very call
        elif usage is not None:
            call.commit(usage)
        elif outer:
            return  # the span around it may know
        elif span.status.status_code is trace.StatusCode.ERROR:
            call.unknown()
        else:
            call.commit(None)

    # --- what others ask

    def _at(self, context: Context, *, exact: bool = False) -> Node | None:
        """The open span of *context*; for one that was not recorded the local root of its trace, unless *exact*."""
        own = trace.get_current_span(context).get_span_context()
        node = self._nodes.get(own.span_id)
        if node is None and not exact and own.trace_id:
            node = self._roots.get(own.trace_id)
        return node

    def run_of(self, context: Context) -> BudgetRun | None:
        """The implicit run of *context*: the enclosing agent's, else the local root's; opened when first asked for."""
        node = self._at(context)
        if node is None:
            return None
        around = list(node.upwards())
        agents = [one for one in around if one.kind is Kind.AGENT]
        if agents:
            parent: BudgetRun | None = None
            for agent in reversed(agents):
                parent = self._opened(agent, parent)
            return parent
        root = around[-1]
        return None if root.kind is not None or root.ours else self._opened(root, None)

    def _opened(self, node: Node, parent: BudgetRun | None) -> BudgetRun:
        if node.run is None:
            engine = self._engine
            budget = engine.implicit_budget(node.name)
            made = BudgetRun(engine, budget, tenant=engine.tenant, parent=parent, kind="implicit")
            with engine.lock:
                first = node.run is None
                if first:
                    node.run = made
            if first:
                made.span = node.span
                made.site = site_of(node.span)
                closing.write_limits(made, node.span)
            else:
                closing.close(made, "completed")
        assert node.run is not None
        return node.run

    def tool_call_around(self, context: Context) -> ToolCall | None:
        """The tool call whose span encloses *context*, or None."""
        node = self._at(context, exact=True)
        return None if node is None else next((one.tool for one in node.upwards() if one.tool is not None), None)

    def reserved_around(self, context: Context, run: BudgetRun) -> ModelCall | None:
        """What an enclosing model span has reserved for this very call, if nobody has taken it over yet."""
        node = self._at(context, exact=True)
        for one in () if node is None else node.upwards():
            call = one.call
            if call is not None and call.run is run and not call.adopted and not call.settled:
                return call
            if one.kind in (Kind.AGENT, Kind.TOOL):
                return None
        return None

    def claim(self, context: Context) -> Span | None:
        """The model span that is current, for one guarded call; None if there is none or a call has it already."""
        node = self._at(context, exact=True)
        if node is None or node.kind is not Kind.MODEL or node.ours or not node.span.is_recording():
            return None
        with self._engine.lock:
            taken, node.claimed = node.claimed, True
        return None if taken else node.span

    def is_call(self, span: Span) -> bool:
        """Whether *span* is an open model or tool call."""
        node = self._nodes.get(span.get_span_context().span_id)
        return node is not None and node.kind in (Kind.MODEL, Kind.TOOL)

    def must_hear(self, parent_context: Context | None, name: str, attributes: Mapping[str, Any] | None) -> bool:
        """Whether a span that sampling drops has to be heard of all the same: calls, agents, units of work."""
        if name.startswith("otelbudget."):
            return False
        if spans.classify(name, attributes) is not None:
            return True
        context = get_current() if parent_context is None else parent_context
        if scope.run_in(context) is not None:
            return False
        parent = trace.get_current_span(context).get_span_context()
        if not parent.is_valid or parent.is_remote:
            return True
        node = self._nodes.get(parent.span_id)
        return node is not None and node.in_agent
