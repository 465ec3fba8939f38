"""The last call: after a denial, one model call from what the budget set aside, so that work can end with an answer."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import Token

from opentelemetry.context import Context

from otelbudget.admission.payer import Payer
from otelbudget.admission.state import RunState
from otelbudget.engine import context
from otelbudget.errors import BudgetError
from otelbudget.model.amounts import NESTED, STEPS, TOOLS
from otelbudget.runs.blocks import Block


class Permit:
    """The right to one model call against the full limits of *run*, which was refused *resource* before."""

    def __init__(self, run: RunState, resource: str | None) -> None:
        self.run = run
        self.account = run.account
        self.grace_ns = run.budget.wrap_up_ns  # by so much it may pass the deadline
        self.resource = resource
        self.used = False

    def holds(self, payer: Payer) -> bool:
        """Whether a request of *payer* comes under it: of its own run, or of one inside."""
        return self.run in payer.lineage

    def refuses(self, amounts: Sequence[int]) -> str | None:
        """The resource for which it refuses a request of its run, or of one inside; None leaves that to the limits."""
        if amounts[TOOLS] or amounts[NESTED]:
            return "tool_calls"
        if amounts[STEPS] > 1 or (self.used and any(amounts)):
            return self.resource or "steps"
        return None


class WrapUp(Block):
    """What `BudgetRun.wrap_up` gives: a block (``with`` or ``async with``) in which one model call is admitted.

    It reaches into what ``wrap_up`` set aside, also for a run inside; limits of that one, of ancestors, quotas and a
    freeze hold as ever; tool calls are refused. A call that was never sent and gave its hold back was none. Entering it
    deals with the run's pending denials.
    """

    advice = "write `with run.wrap_up():`"

    def __init__(self, run: RunState) -> None:
        self._run = run
        self._token: Token[Context] | None = None
        super().__init__()

    def __enter__(self) -> None:
        self.used = True
        run = self._run
        if run.wrapped_up or run.refused.ran_out is None:
            why = "it was used before" if run.wrapped_up else "no limit and no deadline has refused anything yet"
            raise BudgetError(f"wrap_up() works once per run and only after a denial: {why}")
        run.wrapped_up = True
        run.engine.ledger.locked(run.forget)
        given = Permit(run, run.refused.ran_out)
        self._token = context.PERMIT.attach(given)

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            context.detach(self._token)
            self._token = None

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()
