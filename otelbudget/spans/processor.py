"""The spans that are open in this process, as budgets see them: whose run a span is in, which call it is.

`BudgetManager` feeds it from `on_start` and `on_end`. A model span whose SDK has a reachable guard is only noted. Any
other model or tool span is admitted here: its hold is provisional, a guard inside takes it over, else the span's own
usage is charged at its end. An agent's span, or the local root of a request or job, carries an implicit run: see
`implicit_runs`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context, get_current
from opentelemetry.trace import Span

from otelbudget import semconv as sc
from otelbudget.admission import settlement
from otelbudget.admission.state import RunState
from otelbudget.calls.model_call import ModelCall
from otelbudget.calls.sizing import ModelRequest
from otelbudget.engine import context as contexts
from otelbudget.engine.engine import Engine
from otelbudget.engine.owner import Owner
from otelbudget.model.usage import Usage
from otelbudget.runs import ambient, asking
from otelbudget.runs import tool_call as tools
from otelbudget.spans import conventions as spans
from otelbudget.spans.conventions import Kind
from otelbudget.spans.implicit_runs import ImplicitRuns
from otelbudget.spans.tree import OURS, Node, SpanTree, UnheardSpan, names_of
from otelbudget.telemetry.events import NOWHERE, Site, site_of


class LiveSpans:
    """All open spans of the providers that a manager listens to; *listens* once it has been told of one."""

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
        context = get_current() if parent_context is None else parent_context
        scope_name = None if span.instrumentation_scope is None else span.instrumentation_scope.name
        kind = spans.classify(span.name, span.attributes, scope_name)
        node = self.tree.add(span, kind, scope_name, context)
        if node is None or kind is None or (node.ours and kind is not Kind.AGENT):  # our hooks open those of agents
            return  # None: two managers, or one twice, are on a provider, and it has been admitted
        node.conversation = spans.conversation(span.attributes)
        try:
            if kind is Kind.AGENT:
                self._name_agent(node, span)
            elif kind is Kind.TOOL:
                if not self._hooked(scope_name, context):
                    self._admit_tool(node, context)
            elif spans.covered_sdk(scope_name) not in self._engine.guarded:
                self._admit_call(node, context, span.attributes)
        except BaseException:
            self.tree.forget(span)
            raise

    def _name_agent(self, node: Node, span: Any) -> None:
        named = span.name.removeprefix(spans.AGENT_SPAN) if span.name.startswith(spans.AGENT_SPAN) else None
        node.name = spans.agent_name(span.attributes) or named
        around = [] if span.attributes or node.parent is None else node.parent.upwards()
        if around and names_of(around)[0] == node.name:
            node.kind = node.name = None  # the same work, which the span around has told more of

    def ended(self, span: Any) -> None:
        """Charge what an unguarded model span used; end the implicit run of its span."""
        node = self.tree.forget(span)
        if node is None:
            return
        node.ended = True
        if node.call is None:
            if not node.ours and not node.inner:
                self._charge_report(node, span)
        elif node.reserves:
            self._settle(node, node.call, span)
        if node.run is not None:
            self.runs.ended(node, span)

    def _charge_report(self, node: Node, span: Any) -> None:
        """Charge a call not admitted here: its span said only later what it is, or reports one that is over."""
        if spans.classify(span.name, span.attributes, node.scope) is not Kind.MODEL:
            return
        usage = spans.usage_from(span.attributes)
        if usage is None or spans.covered_sdk(node.scope) in self._engine.guarded:
            return
        run = self._payer(node.context)
        if run is not None and not self._was_settled(run, usage, span, node.scope):
            asked = spans.requested_model(span.attributes)
            settlement.record(run, usage, run.site, asked_model=asked, owner=self._owner(run, node))
            self._engine.recent.settled(run.work, usage, span.start_time, node.scope)
            for one in self.tree.around(node.context, exact=True):
                one.inner = True

    def _was_settled(self, run: RunState, usage: Usage, span: Any, scope: str | None) -> bool:
        return self._engine.recent.was_settled(run.work, usage, span.start_time, span.end_time, scope)

    @staticmethod
    def _hooked(scope_name: str | None, context: Context) -> bool:
        """Whether the framework of that scope has a hook that holds tool calls here."""
        framework = spans.framework(scope_name)
        return framework is not None and framework in map(contexts.HOOKED.of, (context, get_current()))

    def _admit_tool(self, node: Node, context: Context) -> None:
        attributes = node.span.attributes
        run = self._payer(context)
        if run is None:
            return
        name = spans.tool_name(attributes) or node.span.name
        call = tools.ToolCall(run, name, spans.tool_call_id(attributes), from_span=True)
        outer = tools.enclosing(context, run, self.tree.around(context, exact=True))
        if outer is None:  # official LangChain's has the context of its parent, not that of where it begins
            outer = tools.enclosing(get_current(), run, ())
        if outer is None or not outer.covers(call.name, call.call_id):
            asked = tools.request_for(run, name, nested=outer is not None, site=site_of(node.span))
            asking.decide(run, asked._replace(owner=self._owner(run, node)))
        node.tool = call

    def _admit_call(self, node: Node, context: Context, attributes: Mapping[str, Any]) -> None:
        run = self._payer(context)
        if run is None or spans.usage_from(attributes) is not None:
            return  # a report after the fact: there is nothing left to refuse, its end charges it
        nodes = self.tree.around(context, exact=True)
        tools.note_model_call(context, nodes)
        lender = self.lender(nodes, run)
        if lender is not None and self._engine.ledger.locked(partial(lender.take, "lent")):
            node.call, node.outer = lender.call, lender
            return
        operation = spans.operation(attributes)
        request = ModelRequest(
            provider=spans.provider_name(attributes) or "unknown",
            operation=operation,
            model=spans.model_name(attributes),
            input_tokens=1,
            max_output_tokens=0 if operation == "embeddings" else spans.max_output_tokens(attributes),
        )
        call = ModelCall(run, request, site_of(node.span), self._owner(run, node), reporter=node.scope)
        asking.decide(run, call.ask())
        call.site = NOWHERE  # or it would keep the span alive that is to keep it alive
        node.call = call

    def _payer(self, context: Context) -> RunState | None:
        """Who pays for what is done in *context*; None if another manager, which listens too, sees to that."""
        run = self.runs.at(context, contexts.run_in(context)) or ambient.outside(self._engine)
        other = run.engine.spans
        return None if run.engine is not self._engine and other is not None and other.listens else run

    def _owner(self, run: RunState, node: Node) -> Owner | None:
        """Whose quotas bind what *node* stands for, if it or a span around it says more than *run*."""
        return run.owner.inside(*names_of(node.upwards())) if self._engine.directory.by_span else None

    def _settle(self, node: Node, call: ModelCall, span: Any) -> None:
        usage = spans.usage_from(span.attributes)
        site = Site(node.span) if node.outer is None else site_of(node.outer.span)
        call.site = site if span.get_span_context().trace_flags.sampled else site_of(node.span)
        if usage is not None and self._was_settled(call.run, usage, span, node.scope):
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

    def lender(self, nodes: Sequence[Node], run: RunState) -> Node | None:
        """Whichever of *nodes* has reserved what a call of *run* made inside them needs, not for another one."""
        for one in nodes:
            if one.call is not None and one.reserves and one.call.run is run:
                return one
            if one.kind in (Kind.AGENT, Kind.TOOL):
                return None
        return None

    def claim(self, node: Node) -> Span | None:
        """The span of *node* for one guarded call made in it; None if it is no model's or a call has it already."""
        if node.kind is not Kind.MODEL or node.ours:
            return None
        span = node.span
        if span is None or not span.is_recording():
            return None
        return span if self._engine.ledger.locked(partial(node.take, "claimed")) else None

    def agent_here(self, context: Context) -> tuple[str | None, str | None]:
        """The name of the innermost agent around *context*, and the conversation; None where no span says."""
        return names_of(self.tree.around(context))

    def agent(self, name: str) -> Span:
        """A span of ours for a piece of work of the agent *name*, which is noted also where the provider drops it."""
        said = {sc.GEN_AI_OPERATION: "invoke_agent", sc.GEN_AI_AGENT_NAME: name}
        around = self.tree.node(trace.get_current_span())
        span: Span = self._engine.tracer.start_span(f"{spans.AGENT_SPAN}{name}", attributes=said)
        if self.tree.node(span) in (None, around):  # without an SDK it is what is around it
            span = UnheardSpan(span, self.ended)
            node = self.tree.add(span, Kind.AGENT, OURS, get_current())
            assert node is not None  # it is new
            node.name = name
        return span

    def named(self, span: Span, name: str) -> bool:
        """Whether *span* is that of the agent *name*; one that has said none is from now on, before its first call."""
        node = self.tree.node(span)
        if node is None or node.kind is not Kind.AGENT or node.inner:
            return False
        node.name = node.name or name
        return node.name == name

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
        if contexts.run_in(context) is not None:
            return False
        parent = trace.get_current_span(context)
        own = parent.get_span_context()
        if not own.is_valid or own.is_remote:
            return True
        # Two requests of one distributed trace can only be told apart by spans that are recorded.
        node, several = self.tree.node(parent), self.tree.roots(own.trace_id) > 1
        return several or (node is not None and any(one.kind is not None for one in node.upwards()))
