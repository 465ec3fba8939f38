"""Tool calls: refused before they start, charged when they do, or when they end if a person may have to be asked first;
nested when another tool call encloses them."""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import Token
from functools import partial
from typing import Any

from opentelemetry.context import Context, get_current

from otelbudget.admission import closing, settlement
from otelbudget.admission.payer import Payer
from otelbudget.admission.request import Request
from otelbudget.admission.state import RunState
from otelbudget.engine import context as contexts
from otelbudget.ledger.account import Hold
from otelbudget.model.amounts import Amounts
from otelbudget.runs import asking
from otelbudget.runs.blocks import Block
from otelbudget.telemetry.events import Site


class ToolCall(Block):
    """One tool call, as a block; what `BudgetRun.tool_call` gives. One that is *from_span* was read off a span.

    One that is *from_hook* is put around a tool by a framework: what encloses it directly may be the same call, as it
    may for a span. A tool span directly inside shows it, under *any_name*.

    With *pauses*, exceptions, it may end before its work is done, for a person to be asked, and is made again then: it
    is held until it ends and charged only there; one of those, or `pause`, gives it back.
    """

    advice = "write `with run.tool_call(...):`"

    def __init__(
        self,
        run: RunState,
        name: str,
        call_id: str | None = None,
        *,
        from_span: bool = False,
        from_hook: bool = False,
        any_name: bool = False,
        pauses: tuple[type[BaseException], ...] | None = None,
    ) -> None:
        self.run = run
        self.name = name
        self.call_id = call_id
        self.from_span = from_span
        self.from_hook = from_hook
        self.any_name = any_name
        self.matched = False  # an inner layer has been recognised as this call
        self.model_called = False  # inside it, so a tool call of the same name inside is another one
        self.around: ToolCall | None = None  # the tool span that a block was entered in
        self.pauses = pauses
        self._hold: Hold | None = None
        self._token: Token[Context] | None = None
        super().__init__()
        self.used = from_span

    def covers(self, name: str | None, call_id: str | None) -> bool:
        """Whether a tool call made directly inside this one is this one, seen once more by another layer."""
        same, first = name == self.name, not self.matched and not self.model_called
        if call_id is None or self.call_id is None:
            same = first and (self.any_name or same)
        else:  # another attempt has the id again; so has, of local servers, another tool inside
            same = call_id == self.call_id and (first or same)
        self.matched = self.matched or same
        return same

    def _admission(self) -> Request | None:
        """What entering asks for; None if what is around it has been charged for this very call."""
        self.used = True
        if self._token is not None:
            raise RuntimeError("this tool call was entered before and has not ended: make a new one per call")
        context = get_current()
        spans = self.run.engine.spans
        nodes = [] if spans is None else spans.tree.around(context, exact=True)
        self.around = _of_span(nodes)
        outer = enclosing(context, self.run, nodes)
        may_be_this = outer is not None and (outer.from_span or (self.from_hook and outer.name == self.name))
        if outer is not None and may_be_this and outer.covers(self.name, self.call_id):
            return None
        request = request_for(self.run, self.name, nested=outer is not None)
        if self.pauses is None:
            return request
        counts = [(self.run.tenant_cell, "tool_calls", request.amounts.tool_calls)]
        self._hold = Hold(self.run, on_expiry=request.amounts, counts=counts)
        return request._replace(hold=self._hold, keeper=self)

    def __enter__(self) -> ToolCall:
        if (request := self._admission()) is not None:
            asking.decide(self.run, request)
        self._token = contexts.TOOL_CALL.attach(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._token is not None:
            contexts.detach(self._token)
            self._token = None
        if kind is not None and issubclass(kind, self.pauses or ()):
            self.pause()
        else:
            self.end()

    async def admit(self) -> None:
        """Ask for it alone, where a block can't be put around it."""
        if (request := self._admission()) is not None:
            await asking.adecide(self.run, request)

    async def __aenter__(self) -> ToolCall:
        await self.admit()
        self._token = contexts.TOOL_CALL.attach(self)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.__exit__(kind)

    def end(self) -> None:
        """Charge it, if that is still to be done."""
        hold, self._hold = self._hold, None
        if hold is not None:
            _charge(self.run, hold)

    def pause(self) -> None:
        """Charge nothing: it is going to be made again."""
        hold, self._hold = self._hold, None
        if hold is not None:
            settlement.give_back(self.run, hold)


def _charge(payer: Payer, held: Hold) -> None:
    """Charge a call that was held while the tool ran."""
    if payer.engine.ledger.later(partial(_charge, payer, held)):
        return
    if crossed := settlement.charge_hold(payer, held):
        settlement.say_crossed(payer, payer.around().site, crossed)
    if payer.unusual:
        closing.finish_if_idle(payer)


def enclosing(context: Context, run: RunState, nodes: Iterable[Any]) -> ToolCall | None:
    """The tool call of *run* or of a run above it that *context*, with the spans *nodes* around it, is inside of."""
    found = _innermost(context, nodes)
    return found if found is not None and found.run in run.lineage else None


def note_model_call(context: Context, nodes: Iterable[Any]) -> None:
    """Let the tool call and the spans *nodes* around *context* know that a model is called inside them."""
    for one in nodes:
        one.inner = True
    tool = _innermost(context, nodes)
    if tool is not None:
        tool.model_called = True


def _innermost(context: Context, nodes: Iterable[Any]) -> ToolCall | None:
    """The tool call that *context* is directly inside of: a block in the code, or a span."""
    block: ToolCall | None = contexts.TOOL_CALL.of(context)
    span = _of_span(nodes)
    return span if block is None or (span is not None and span is not block.around) else block


def _of_span(nodes: Iterable[Any]) -> ToolCall | None:
    for one in nodes:
        if one.tool is not None:
            tool: ToolCall = one.tool
            return tool
    return None


def request_for(payer: Payer, name: str, *, nested: bool, site: Site | None = None) -> Request:
    """The request that a call of the tool *name* makes; said on *site*, else where it is made."""
    amounts = Amounts(tool_calls=1, nested_tool_calls=1 if nested else 0)
    here = payer.around()
    return Request("tool", amounts, site or here.site, owner=here.owner, permit=here.permit, tool=name)
