"""`on_exhausted`: asks the callback of the run whose budget is in the way, outside every lock.

Each denied caller asks for itself, so a callback may be called by several at once, and none waits for another's answer.
Whatever a callback calls knows by the OpenTelemetry context that it is part of that run's answer, and is refused there
without asking once more.
"""

from __future__ import annotations

import contextlib
import inspect
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from opentelemetry.context import get_current

from otelbudget.engine import scope

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otelbudget.admission.admission import Verdict
    from otelbudget.model.decision import Denial
    from otelbudget.runs.run import BudgetRun

__all__ = ["Question", "question"]

#: Reasons that more budget can lift.
_LIFTABLE: Final = ("limit", "deadline")


def question(run: BudgetRun, verdict: Verdict) -> Question | None:
    """What may be asked about *verdict* of a request of *run*; None if nobody could lift it."""
    denial = verdict.decision.denial
    if verdict.decision.allowed or denial is None or denial.reason not in _LIFTABLE:
        return None
    payer = verdict.blocker or run
    if not callable(payer.budget.on_exhausted) or payer in scope.asking_in(get_current()):
        return None
    return Question(payer, denial)


class Question(NamedTuple):
    """Whether *denial* may be lifted, to the callback of *payer*."""

    payer: BudgetRun
    denial: Denial

    def ask(self) -> bool:
        """The answer to a plain call; one that would have to be awaited is none."""
        with self._marked():
            answer = self._callback()
        if not inspect.isawaitable(answer):
            return bool(answer)
        if inspect.iscoroutine(answer):
            answer.close()
        self.payer.engine.warn_once(
            "async on_exhausted",
            "on_exhausted of %r is async, but a call that is not async was refused: the refusal stands;"
            " use async clients, areserve or acheck, or a plain function",
            self.payer,
        )
        return False

    async def aask(self) -> bool:
        """The answer to a coroutine."""
        with self._marked():
            answer = self._callback()
            return bool(await answer if inspect.isawaitable(answer) else answer)

    def _callback(self) -> Any:
        callback = self.payer.budget.on_exhausted
        assert callable(callback)
        return callback(self.denial, self.payer)

    @contextlib.contextmanager
    def _marked(self) -> Iterator[None]:
        token = scope.attach_asking((*scope.asking_in(get_current()), self.payer))
        try:
            yield
        finally:
            scope.detach(token)
