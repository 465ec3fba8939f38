"""`Ask`: one request for some of a run's budget; `Verdict`: what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from otelbudget.model.amounts import COST, OUTPUT, TOKENS, Amounts
from otelbudget.model.decision import Decision
from otelbudget.telemetry.events import NOWHERE, Site

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from otelbudget.ledger.account import Hold
    from otelbudget.ledger.ledger import Crossing, Refusal
    from otelbudget.runs.idempotency import Keyed
    from otelbudget.runs.run import BudgetRun

__all__ = ["GONE", "REPLAYED", "Ask", "Verdict"]

#: Resources that less output leaves more of.
_OUTPUT_COUNTS: Final = (TOKENS, OUTPUT, COST)
#: What a change of a hold comes to that has been settled meanwhile.
GONE: Final = Decision(True)
#: What a request with an idempotency key comes to that was admitted before.
REPLAYED: Final = Decision(True)


class Ask:
    """One request: what it wants, and what happens when it is admitted.

    Args:
        amounts: Wanted, in internal units, `RESOURCES` order.
        wants: Gives *amounts* anew whenever it is judged, with the lock held; None where they stay.
        operation: ``call``, ``check``, ``reserve``, ``tool`` or ``probe``.
        site: The span that hears of the decision.
        hold: Registered for *owner* on admission.
        held: An open hold that is to be changed, instead of a new one.
        resize: It is to be exactly *amounts* then; else it grows by them.
        charge: Charge at once on admission (tool calls).
        carve_for: The child run that this is to be carved out for.
        model: The model that is called, if known.
        seconds_ns: Wall time that has to be left.
        permit: The wrap-up permit of the context, if any.
        unpriced: The model that no price is known for, if that matters to this run.
        own_maximum: The request's own maximum of output tokens, for the message.
        smaller: Given what tells whether amounts fit, the most that does with less output, or None. Where too little
            is left of tokens or money, *amounts* becomes that and `lowered` true.
        once: What gives it an idempotency key, or None.
    """

    __slots__ = (
        "amounts",
        "carve_for",
        "charge",
        "held",
        "hold",
        "lowered",
        "model",
        "once",
        "operation",
        "own_maximum",
        "owner",
        "permit",
        "resize",
        "seconds_ns",
        "site",
        "smaller",
        "unpriced",
        "wants",
    )

    def __init__(
        self,
        amounts: Sequence[int],
        operation: str,
        *,
        site: Site = NOWHERE,
        hold: Hold | None = None,
        owner: Any = None,
        held: Hold | None = None,
        resize: bool = False,
        charge: bool = False,
        carve_for: BudgetRun | None = None,
        wants: Callable[[], Sequence[int]] | None = None,
        model: str | None = None,
        seconds_ns: int = 0,
        permit: Any = None,
        unpriced: str | None = None,
        own_maximum: int | None = None,
        smaller: Callable[[Callable[[Sequence[int]], bool]], Amounts | None] | None = None,
    ) -> None:
        self.amounts = amounts
        self.operation = operation
        self.site = site
        self.hold = hold
        self.owner = owner
        self.held = held
        self.resize = resize
        self.charge = charge
        self.carve_for = carve_for
        self.wants = wants
        self.model = model
        self.seconds_ns = seconds_ns
        self.permit = permit
        self.unpriced = unpriced
        self.own_maximum = own_maximum
        self.smaller = smaller
        self.lowered = False
        self.once: Keyed | None = None

    def lower(self, refused: Refusal, fits: Callable[[Sequence[int]], bool]) -> bool:
        """Ask for less output if that is what *refused* lacks and less would fit; called with the lock held."""
        less = self.smaller(fits) if self.smaller is not None and refused.resource in _OUTPUT_COUNTS else None
        if less is None:
            return False
        self.amounts, self.lowered = less, True
        if self.hold is not None:
            self.hold.amounts = less
        return True


class Verdict(NamedTuple):
    """What came of an attempt.

    Attributes:
        decision: Its `denial` says why not.
        blocker: The run whose budget is in the way (it may be an ancestor); None if it is not a run's.
        left: (resource, what remains) of the tightest account, where somebody wants to hear it.
        crossed: Thresholds reached by charging at once.
    """

    decision: Decision
    blocker: BudgetRun | None = None
    left: tuple[int, int] | None = None
    crossed: Sequence[Crossing] = ()
