"""Tool calls: refused before they start, charged when they do, nested when another tool call encloses them."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

from opentelemetry.context import Context, get_current

from otelbudget.admission.admission import Ask
from otelbudget.engine import scope
from otelbudget.model.amounts import Amounts
from otelbudget.runs import asking
from otelbudget.runs import wrap_up as wrapping

if TYPE_CHECKING:
    from contextvars import Token

    from otelbudget.engine.engine import Engine
    from otelbudget.runs.run import BudgetRun
    from otelbudget.telemetry.events import Site

__all__ = ["ToolCall", "ask_for", "enclosing", "is_name", "note_model_call"]


class ToolCall:
    """One tool call, as a block; what `BudgetRun.tool_call` gives.

    Attributes:
        run: Whose call it is.
        name, call_id: As the model asked for it; the id may be None.
        from_span: It was read off a span; else it is a block in the code.
        around: The tool span that a block was entered in, or None.
        model_called: A model call was made inside it, so a tool call of the same name inside is another one.
        matched: An inner layer has been recognised as this call.
    """

    __slots__ = ("_token", "around", "call_id", "from_span", "matched", "model_called", "name", "run")

    def __init__(self, run: BudgetRun, name: str, call_id: str | None = None, *, from_span: bool = False) -> None:
        self.run = run
        self.name = name
        self.call_id = call_id
        self.from_span = from_span
        self.model_called = self.matched = False
        self.around: ToolCall | None = None
        self._token: Token[Context] | None = None

    def covers(self, name: str | None, call_id: str | None) -> bool:
        """Whether a tool call made directly inside this one is this one, seen once more by another layer."""
        if self.matched:
            return False
        if call_id is not None and self.call_id is not None:
            self.matched = call_id == self.call_id
        else:
            self.matched = name == self.name and not self.model_called
        return self.matched

    def _admission(self) -> Ask | None:
        """What entering asks for; None if a tool span around it has been charged for this very call."""
        if self._token is not None:
            raise RuntimeError("this tool call was entered before and has not ended: make a new one per call")
        context = get_current()
        self.around = self.run.engine.tool_call_around(context)
        outer = enclosing(context, self.run)
        if outer is not None and outer.from_span and outer.covers(self.name, self.call_id):
            return None
        return ask_for(nested=outer is not None, site=self.run.site_here())

    def __enter__(self) -> ToolCall:
        if (ask := self._admission()) is not None:
            asking.decide(self.run, ask)
        self._token = scope.attach_tool_call(self)
        return self

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            scope.detach(self._token)
            self._token = None

    async def __aenter__(self) -> ToolCall:
        if (ask := self._admission()) is not None:
            await asking.adecide(self.run, ask)
        self._token = scope.attach_tool_call(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()


def is_name(name: object, call_id: object) -> TypeGuard[str]:
    """Whether a tool call can have this name, and this id or none."""
    return isinstance(name, str) and bool(name) and (call_id is None or isinstance(call_id, str))


def enclosing(context: Context, run: BudgetRun) -> ToolCall | None:
    """The tool call of *run* or of a run above it that *context* is inside of."""
    found = innermost(context, run.engine)
    return found if found is not None and found.run in run.lineage() else None


def innermost(context: Context, engine: Engine) -> ToolCall | None:
    """The tool call that *context* is directly inside of: a block in the code, or a span."""
    block: ToolCall | None = scope.tool_call_in(context)
    span = engine.tool_call_around(context)
    return span if block is None or (span is not None and span is not block.around) else block


def note_model_call(context: Context, engine: Engine) -> None:
    """Let the tool call and the spans around *context* know that a model is called inside them."""
    if engine.live_spans is not None:
        engine.live_spans.note_call(context)
    tool = innermost(context, engine)
    if tool is not None:
        tool.model_called = True


def ask_for(*, nested: bool, site: Site) -> Ask:
    """The request that a tool call makes."""
    amounts = Amounts(tool_calls=1, nested_tool_calls=1 if nested else 0)
    return Ask(amounts, "tool", site=site, charge=True, permit=wrapping.permit())
