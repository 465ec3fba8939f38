"""`Node`: one open span, as budgets see it, in the tree of those that are open in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from otelbudget.spans import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.context import Context

    from otelbudget.calls import ModelCall
    from otelbudget.runs.run import BudgetRun
    from otelbudget.runs.tools import ToolCall

__all__ = ["OURS", "Node"]

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
        "call", "claimed", "context", "ended", "inner", "kind", "lent", "name", "ours", "outer", "parent", "run",
        "scope", "span", "tool", "within",
    )
    # fmt: on

    def __init__(self, span: Any, parent: Node | None, kind: Kind | None, scope: str | None, context: Context) -> None:
        self.span = span
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

    def upwards(self) -> Iterator[Node]:
        """This node, then all around it."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent
