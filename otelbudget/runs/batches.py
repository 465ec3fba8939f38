"""Tool calls that a model asked for together: all or none are admitted, or as many as fit, before one of them runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.context import get_current

from otelbudget import semconv
from otelbudget.admission import admission, closing, denying
from otelbudget.admission import settlement as accounting
from otelbudget.ledger.account import Hold
from otelbudget.ledger.changes import Change, at_once
from otelbudget.model.amounts import NESTED, Amounts
from otelbudget.runs import tool_call as tools
from otelbudget.runs import wrap_up as wrapping
from otelbudget.telemetry import events

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otelbudget.ledger.ledger import Crossing
    from otelbudget.model.decision import Denial
    from otelbudget.runs.run import BudgetRun

__all__ = ["Batch", "BatchCall", "CallName"]

#: A tool's name, or its name and the id of the call.
CallName = str | tuple[str, str | None]


class Batch:
    """Several tool calls, as a block; what `BudgetRun.tool_calls` gives.

    Entering it holds all of them; each is charged when it is entered itself, in whatever thread or task, and stays
    charged when it fails. Those that were not entered are given back at the end of the block; one that is entered later
    still is judged like any other tool call. The calls are nested if the block is inside a tool call.

    Attributes:
        run: Whose calls they are.
        calls: Those that were admitted, in the order of their names; iterating the batch gives them.
        refused: With ``partial``, why the others were not, one `Denial` each.
        refused_calls: (name, call id) of those, in the same order.
    """

    __slots__ = ("__weakref__", "_asked", "_entered", "_hold", "_one", "_partial", "calls", "refused", "run")

    def __init__(self, run: BudgetRun, names: tuple[CallName, ...], *, partial: bool) -> None:
        self.run = run
        self.calls: tuple[BatchCall, ...] = ()
        self.refused: tuple[Denial, ...] = ()
        self._asked = [_name(i, one) for i, one in enumerate(names)]
        self._partial = partial
        self._entered = False
        self._one = Amounts()
        self._hold = Hold(run.accounts, Amounts(), payer=run)

    @property
    def refused_calls(self) -> tuple[tuple[str, str | None], ...]:
        """(name, call id) of those that were refused."""
        return tuple(self._asked[len(self.calls) :] if self.refused else ())

    def __iter__(self) -> Iterator[BatchCall]:
        return iter(self.calls)

    def __len__(self) -> int:
        return len(self.calls)

    def __enter__(self) -> Batch:
        ask = self._ask()
        if self._partial:
            self._admit_what_fits(ask)
        elif self._asked:
            denying.decide(self.run, ask)
            self._admit(len(self._asked))
        return self

    async def __aenter__(self) -> Batch:
        ask = self._ask()
        if self._partial:
            self._admit_what_fits(ask)
        elif self._asked:
            await denying.adecide(self.run, ask)
            self._admit(len(self._asked))
        return self

    def __exit__(self, *_: object) -> None:
        rest = self._hold.amounts
        if not self.calls or not accounting.give_back(self.run, self._hold) or not any(rest):
            return
        self.run.say(self.run.site_here(), events.release_event, {semconv.RESOURCE: "tool_calls"})

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()

    def _ask(self) -> admission.Ask:
        if self._entered:
            raise RuntimeError("this batch was entered before: make a new one with run.tool_calls(...)")
        self._entered = True
        nested = tools.enclosing(get_current(), self.run) is not None
        self._one = Amounts(tool_calls=1, nested_tool_calls=1 if nested else 0)
        return self._wanting(len(self._asked))

    def _wanting(self, number: int) -> admission.Ask:
        self._hold.amounts = amounts = Amounts(*(number * amount for amount in self._one))
        site, permit = self.run.site_here(), wrapping.permit()
        return admission.Ask(amounts, "tool", site=site, hold=self._hold, owner=self, permit=permit)

    def _admit(self, number: int) -> None:
        self.calls = tuple(BatchCall(self, *name) for name in self._asked[:number])

    # --- as many as fit

    def _admit_what_fits(self, ask: admission.Ask) -> None:
        """Hold as many calls as fit, in one critical section, and say why the others did not."""
        if not self._asked:
            return
        run, fit = self.run, len(self._asked)
        closing.settle_overdue(run.engine)
        with run.engine.lock:
            first = last = admission.attempt(run, ask)
            if not first.decision:
                ask = self._wanting(1)
                first = last = admission.attempt(run, ask)
                fit = 1 if first.decision else 0
            while last.decision and fit < len(self._asked):
                more = admission.Ask(self._one, "tool", site=ask.site, held=self._hold)
                last = admission.attempt(run, more)
                fit += last.decision.allowed
        if first.decision:
            denying.admitted(run, ask, first)
        self._admit(fit)
        if last.decision.denial is not None and not last.decision:
            self.refused = (last.decision.denial,) * (len(self._asked) - fit)
            for denial in self.refused:
                denying.note(run, ask, denial)

    # --- what its calls do

    def spend(self, call: BatchCall, *, charged: bool) -> bool:
        """Take *call* out of the hold, and charge it or not; False if the batch holds nothing any more."""
        run, held, one = self.run, self._hold, self._one
        store = run.engine.store

        def plan(change: Change) -> list[Crossing] | None:
            if held.state != "open" or not call._held:
                return None
            change.resize(held, Amounts(*(a - b for a, b in zip(held.amounts, one, strict=True))))
            change.set(call, "_held", False)
            return store.charges(change, held.accounts, one) if charged else []

        with run.engine.lock:
            crossed = at_once(plan)
            if crossed is None:
                return False
            run.tenant_cell.tool_calls += charged
            store.changed()
        accounting.say_crossed(run, run.site_here(), crossed)
        return True

    def asks_more(self, ask: admission.Ask) -> bool:
        """Whether a call is nested where its batch is not."""
        return ask.amounts[NESTED] > self._one[NESTED]


class BatchCall(tools.ToolCall):
    """One call of a batch, to be entered once (``with`` or ``async with``), by anybody."""

    __slots__ = ("_batch", "_held")

    def __init__(self, batch: Batch, name: str, call_id: str | None) -> None:
        super().__init__(batch.run, name, call_id)
        self._batch = batch
        self._held = True

    def _admission(self) -> admission.Ask | None:
        ask = super()._admission()
        if not self._held:
            return ask
        if ask is None or self._batch.asks_more(ask):
            # A span around it has paid for this very call, or it is another kind of call than was held.
            self._batch.spend(self, charged=False)
            return ask
        return None if self._batch.spend(self, charged=True) else ask


def _name(i: int, given: Any) -> tuple[str, str | None]:
    name, call_id = (given, None) if isinstance(given, str) else given if _is_pair(given) else (None, None)
    if not tools.is_name(name, call_id):
        raise TypeError(f"tool call {i} must be a name or (name, call id), got {given!r}")
    return name, call_id


def _is_pair(given: object) -> bool:
    return isinstance(given, tuple) and len(given) == 2
