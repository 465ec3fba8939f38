"""The spans that are open in this process, as budgets see them: whose run a span is in, which call it is.

`BudgetManager` feeds it from `on_start` and `on_end`. A model span whose SDK has a reachable guard is only noted. Any
other model or tool span is admitted here: its hold is provisional, a guard inside takes it over, else the span's own
usage is charged at its end. An agent's span, or the local root of a request or job, carries an implicit run: see
`implicit_runs`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.context import Context, get_current

from otelbudget.calls.model_call import ModelCall, ModelRequest
from otelbudget.engine import scope
from otelbudget.runs import asking
from otelbudget.runs import tool_call as tools
from otelbudget.runs.run import BudgetRun
from otelbudget.spans import conventions as spans
from otelbudget.spans.conventions import Kind
from otelbudget.spans.implicit_runs import ImplicitRuns
from otelbudget.spans.tree import Node, SpanTree
from otelbudget.telemetry.events import NOWHERE, Site, site_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.trace import Span

    from otelbudget.engine.engine import Engine
    from otelbudget.runs.tool_call import ToolCall

__all__ = ["LiveSpans"]


class LiveSpans:
    """All open spans of the providers that a manager listens to.

    Attributes:
        tree: The open spans.
        runs: The runs that agents' spans, requests and jobs carry.
        listens: It has been told of a span.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.tree = SpanTree()
        self.runs = ImplicitRuns(engine, self.tree)
        self.listens = False

    # --- what the SDK tells

    def started(self, span: Any, parent_context: Context | None) -> None:
        """Note a span; admit what it stands for.

        Raises:
            BudgetExceeded: It is a model or tool call that can't be paid for; the span has its check event.
        """
        self.listens = True
        known = self.tree.node(span)
        if known is not None and known.span is span:
            return  # two managers, or one twice, on a provider: it has been admitted
        context = get_current() if parent_context is None else parent_context
        scope_name = None if span.instrumentation_scope is None else span.instrumentation_scope.name
        kind = spans.classify(span.name, span.attributes, scope_name)
        node = self.tree.add(span, kind, scope_name, context)
        if node.ours or kind is None:
            return
        try:
            self._admit(node, context)
        except BaseException:
            self.tree.forget(node)
            raise

    def ended(self, span: Any) -> None:
        """Charge what an unguarded model span used; end the implicit run of its span."""
        node = self.tree.node(span)
        if node is None:
            return
        node.ended = True
        self.tree.forget(node)
        if node.call is not None and not node.call.adopted and not node.call.settled and not node.lent:
            self._settle(node, node.call, span)
        elif node.call is None and not node.ours and not node.inner:
            self._charge_report(node, span)
        self.runs.ended(node, span)

    def _charge_report(self, node: Node, span: Any) -> None:
        """Charge a call not admitted here: its span said only later what it is, or reports one that is over."""
        if spans.classify(span.name, span.attributes, node.scope) is not Kind.MODEL:
            return
        usage = spans.usage_from(span.attributes)
        if usage is None or spans.covered_sdk(node.scope) in self._engine.guarded:
            return
        run = self._payer(node.context)
        if run is not None and not self._engine.was_settled(run, usage, span.start_time, span.end_time, node.scope):
            run.record(usage, site=run.site)
            self._engine.settled(run, usage, span.start_time, node.scope)
            self.note_call(node.context)

    def _admit(self, node: Node, context: Context) -> None:
        attributes = node.span.attributes
        if node.kind is Kind.AGENT:
            node.name = spans.agent_name(attributes)
        elif node.kind is Kind.TOOL:
            self._admit_tool(node, context)
        elif spans.covered_sdk(node.scope) not in self._engine.guarded:
            self._admit_call(node, context, attributes)

    def _admit_tool(self, node: Node, context: Context) -> None:
        attributes = node.span.attributes
        run = self._payer(context)
        if run is None:
            return
        name = spans.tool_name(attributes) or node.span.name
        call = tools.ToolCall(run, name, spans.tool_call_id(attributes), from_span=True)
        outer = tools.enclosing(context, run)
        if outer is None or not outer.covers(call.name, call.call_id):
            asking.decide(run, tools.ask_for(nested=outer is not None, site=site_of(node.span)))
        node.tool = call

    def _admit_call(self, node: Node, context: Context, attributes: Mapping[str, Any]) -> None:
        run = self._payer(context)
        if run is None:
            return
        if spans.usage_from(attributes) is not None:
            return  # a report after the fact: there is nothing left to refuse, its end charges it
        tools.note_model_call(context, self._engine)
        if self._borrow(node, context, run):
            return
        operation = spans.operation(attributes)
        request = ModelRequest(
            provider=spans.provider_name(attributes) or "unknown",
            operation=operation,
            model=spans.model_name(attributes),
            input_tokens=1,
            max_output_tokens=0 if operation == "embeddings" else spans.max_output_tokens(attributes),
        )
        call = ModelCall(run, request, site_of(node.span))
        call.reporter = node.scope
        asking.decide(run, call.ask())
        call.site = NOWHERE  # or it would keep the span alive that is to keep it alive
        node.call = call

    def _borrow(self, node: Node, context: Context, run: BudgetRun) -> bool:
        """Let *node* stand for the call that a span around it has reserved, unless another one inside does."""
        lender = self._lender(context, run)
        if lender is None:
            return False
        with self._engine.lock:
            if lender.lent:
                return False
            lender.lent = True
        node.call, node.outer = lender.call, lender
        return True

    def _payer(self, context: Context) -> BudgetRun | None:
        """Who pays for what is done in *context*; None if another manager, which listens too, sees to that."""
        run = scope.run_in(context) or self.runs.of(context) or self._engine.outside()
        other = run.engine.live_spans
        return None if run.engine is not self._engine and other is not None and other.listens else run

    def _settle(self, node: Node, call: ModelCall, span: Any) -> None:
        usage = spans.usage_from(span.attributes)
        site = Site(node.span) if node.outer is None else site_of(node.outer.span)
        call.site = site if span.get_span_context().trace_flags.sampled else NOWHERE
        if usage is not None and self._engine.was_settled(call.run, usage, span.start_time, span.end_time, node.scope):
            call.release()  # a guard or another layer has charged this very call
        elif usage is not None:
            call.reporter = node.scope
            call.commit(usage)
        elif node.outer is not None:
            node.outer.lent = False  # the span around it may know, or ask once more
        elif span.status.status_code is trace.StatusCode.ERROR:
            call.unknown()
        else:
            call.commit(None)

    # --- what others ask

    def around(self, context: Context) -> list[Any]:
        """The open spans around *context*, innermost first."""
        node = self.tree.at(context)
        return [] if node is None else [one.span for one in node.upwards()]

    def tool_call_around(self, context: Context) -> ToolCall | None:
        """The tool call whose span encloses *context*, or None."""
        node = self.tree.at(context, exact=True)
        return None if node is None else next((one.tool for one in node.upwards() if one.tool is not None), None)

    def reserved_around(self, context: Context, run: BudgetRun) -> ModelCall | None:
        """What an enclosing model span has reserved for this very call, if nobody has taken it over yet."""
        lender = self._lender(context, run)
        if lender is None or lender.call is None:
            return None
        lender.call.site = site_of(lender.span)
        return lender.call

    def _lender(self, context: Context, run: BudgetRun) -> Node | None:
        node = self.tree.at(context, exact=True)
        for one in () if node is None else node.upwards():
            call = one.call
            if call is not None and call.run is run and not (call.adopted or call.settled or one.lent):
                return one
            if one.kind in (Kind.AGENT, Kind.TOOL):
                return None
        return None

    def claim(self, context: Context) -> Span | None:
        """The model span that is current, for one guarded call; None if there is none or a call has it already."""
        node = self.tree.at(context, exact=True)
        if (
            node is None
            or node.kind is not Kind.MODEL
            or node.ours
            or node.span is None
            or not node.span.is_recording()
        ):
            return None
        with self._engine.lock:
            taken, node.claimed = node.claimed, True
        return None if taken else node.span

    def note_call(self, context: Context) -> None:
        """Let the spans around *context* know that a model call is made inside them."""
        node = self.tree.at(context, exact=True)
        for one in () if node is None else node.upwards():
            if one.inner:
                return
            one.inner = True

    def is_call(self, span: Span) -> bool:
        """Whether *span* is an open model or tool call."""
        node = self.tree.node(span)
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
        parent = trace.get_current_span(context)
        own = parent.get_span_context()
        if not own.is_valid or own.is_remote:
            return True
        node = self.tree.node(parent)
        # Two requests of one distributed trace can only be told apart by spans that are recorded.
        return (node is not None and node.within) or self.tree.roots(own.trace_id) > 1
