"""The runs that nobody opens: those of agents' spans, and of the local root span of a request or job.

One begins with the first call inside its span and ends with the span. It takes its tenant from what the configuration
says (`tenant_from`), and an agent's run is a child of the run of the agent around it. Inside of an explicit run only an
agent whose name has a budget has one, as a child of that.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context

from otelbudget import forking
from otelbudget.admission import closing
from otelbudget.admission.state import RunState
from otelbudget.engine import context as contexts
from otelbudget.engine.engine import UNLIMITED_BUDGET, Engine
from otelbudget.engine.owner import Names, Owner
from otelbudget.spans.conventions import Kind, covered_sdk
from otelbudget.spans.tree import LooseSpan, Node, SpanTree, names_of
from otelbudget.telemetry.events import site_of

#: How many ended spans that carried a run are remembered, for tasks that outlive them.
_ENDED: Final = 1024


class ImplicitRuns:
    """All implicit runs of a manager."""

    def __init__(self, engine: Engine, tree: SpanTree) -> None:
        self._engine = engine
        self._tree = tree
        self._left: OrderedDict[int, RunState] = OrderedDict()
        self._opening = forking.fresh_lock()
        self._closing = forking.fresh_lock()
        engine.overdue.append(self._close_lost)

    def ended(self, node: Node, span: Any) -> None:
        """End the run of a span that has ended, if it has one."""
        run = node.run
        if run is None:
            return
        self._left[node.span_id] = run
        while len(self._left) > _ENDED:
            self._left.popitem(last=False)
        failed = span.status.status_code is trace.StatusCode.ERROR and run.outcome == "completed"
        closing.close(run, "error" if failed else run.outcome)

    def of(self, context: Context) -> RunState | None:
        """The implicit run of *context*: the enclosing agent's, else the local root's; opened when first asked for.

        Where the span that carried it has ended, it is that run still, which is closed.
        """
        run = self._left.get(trace.get_current_span(context).get_span_context().span_id) if self._left else None
        run = run or self.of_agent(context)
        nodes = [] if run is not None else self._tree.around(context)
        return self._opened(nodes[-1], None, context) if nodes and _is_work(nodes[-1]) else run

    def at(self, context: Context, explicit: RunState | None) -> RunState | None:
        """The run of *context*, in which *explicit* is the explicit one, if there is one."""
        return self.of(context) if explicit is None else self.within(explicit, context)

    def of_agent(self, context: Context) -> RunState | None:
        """The run of the agent's span that encloses *context*, or None."""
        return self._of_agents(context, None)

    def within(self, explicit: RunState, context: Context) -> RunState:
        """The run of *context* inside of an *explicit* one: that of an agent in it whose name has a budget, else it."""
        named = explicit.engine is self._engine and self._engine.config.agents
        return (named and self._of_agents(context, explicit)) or explicit

    def _of_agents(self, context: Context, explicit: RunState | None) -> RunState | None:
        run, named = explicit, self._engine.config.agents
        for node in reversed(self._tree.around(context)):
            if node.kind is Kind.AGENT and (
                explicit is None or (node.name in named and contexts.run_in(node.context) is explicit)
            ):
                run = self._opened(node, run, context)
        return run

    def _opened(self, node: Node, parent: RunState | None, context: Context) -> RunState:
        self._close_lost()
        with self._opening:
            if node.run is None:
                engine = self._engine
                named = None if node.name is None else engine.config.agents.get(node.name)
                # Without one of its own, an agent inside another one has no limits, and the default elsewhere.
                budget = UNLIMITED_BUDGET if named is None and parent is not None else engine.budget(named)
                said = self._tenant_said(node, context) if parent is None else None
                owner = engine.directory.owner(Names(tenant=said)) if parent is None else parent.owner
                owner = owner.inside(*names_of(node.upwards()))
                made = RunState(engine, budget, owner, parent=parent, kind="implicit", reraise=False)
                made.enlist()
                made.tenant_said = said is not None if parent is None else parent.tenant_said
                span = node.span
                if span is not None:
                    made.span = LooseSpan(span)
                    made.site = site_of(made.span)
                    closing.write_limits(made, span)
                node.run = made
                if node.ended:
                    closing.close(made, made.outcome)
            return node.run

    def _close_lost(self) -> bool:
        """End the runs whose span was dropped without being ended; gives whether there were any."""
        if not self._tree.lost or self._closing._is_owned():  # ending one looks again
            return False
        with self._closing:
            self._close_all(self._tree.lost)
        return True

    def _close_all(self, lost: deque[RunState]) -> None:
        while lost:
            run = lost.popleft()
            closing.close(run, run.outcome)

    def _tenant_said(self, node: Node, context: Context) -> str | None:
        """The tenant of the run of *node*, opened for a call in *context*, if anything says."""
        around = (one.span for one in node.upwards())
        return self._engine.tenant_said(around, node.context, context)

    def owner_said(self, context: Context) -> Owner | None:
        """Whose the request or job around *context* is, if anything says."""
        nodes = self._tree.around(context)
        if not nodes:
            return None
        root = nodes[-1]
        if root.run is not None:
            return root.run.owner if root.run.tenant_said else None
        said = None if root.ours else self._tenant_said(root, context)
        return None if said is None else self._engine.directory.owner(Names(tenant=said))


def _is_work(root: Node) -> bool:
    """Whether a local root stands for a request or job; not for one call of a client, which may say so only later."""
    if root.kind is not None or root.ours:
        return False
    return covered_sdk(root.scope) is None or (root.span is not None and root.span.kind is trace.SpanKind.SERVER)
