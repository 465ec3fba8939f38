"""`Request`: what somebody asks for; `Judgement`: what came of it; `Refusals`: what a run was refused so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from otelbudget.engine.owner import Owner
from otelbudget.errors import BudgetExceeded
from otelbudget.ledger.account import Crossing, Hold
from otelbudget.model.amounts import NOTHING, Amounts
from otelbudget.model.decision import ALLOWED, Decision, Denial
from otelbudget.model.usage import Usage
from otelbudget.model.vector import pack
from otelbudget.telemetry.events import NOWHERE, Site

if TYPE_CHECKING:
    from otelbudget.admission.state import RunState

#: Given what tells whether amounts would be admitted, the most that is, or None.
Smaller = Callable[[Callable[[Sequence[int]], bool]], Amounts | None]
#: What a change of a hold comes to that has been settled meanwhile.
GONE: Final = Decision(True)
#: What a request with an idempotency key comes to that was admitted before.
REPLAYED: Final = Decision(True)
#: What a hold was paid with that somebody else has settled, under the same key.
ELSEWHERE: Final = object()
_EXACTLY: Final = ("resize", "adopt")


@dataclass(slots=True, eq=False)
class Once:
    """What a key stands for.

    Attributes:
        there: The id and the digest by which a shared store knows it; None for a key that nobody else has.
        asking: How many are being decided or charged under it.
        hold: What was held for a reserve; None until it is admitted.
        done: The usage of a record was charged.
    """

    kind: Literal["reserve", "record"]
    key: str
    payload: Amounts | Usage
    on_unknown: Any = "full"
    there: tuple[str, str] | None = None
    asking: int = 0
    hold: Hold | None = None
    done: bool = False

    @property
    def open(self) -> bool:
        """Whether a call under it is in flight."""
        return self.hold is not None and self.hold.state == "open"


class Request(NamedTuple):
    """One request.

    Attributes:
        operation: ``call``, ``check``, ``reserve``, ``tool`` or ``probe``.
        site: The span that hears of the decision.
        owner: Whose quotas, where that is not the payer's own (in an agent's span); else None.
        permit: The permit to wrap up of the context, if any.
        unpriced: The model that no price is known for, if that matters here.
        seconds_ns: Wall time that has to be left.
        hold: Registered on admission, for *keeper*, which keeps it alive. None: nothing is held.
        change: *hold* is open, and is to ``grow`` by *amounts*, or to ``resize`` to exactly these; ``adopt`` is that
            for a call that is new, and so is judged by the state of its run as well.
        own_maximum: The request's own maximum of output tokens, for the message.
        smaller: How it could do with less output, or None.
        once: What its idempotency key stands for, or None.
    """

    operation: str
    amounts: Amounts = NOTHING
    site: Site = NOWHERE
    model: str | None = None
    owner: Owner | None = None
    permit: Any = None
    unpriced: str | None = None
    seconds_ns: int = 0
    hold: Hold | None = None
    keeper: Any = None
    change: Literal["grow", "resize", "adopt"] | None = None
    own_maximum: int | None = None
    smaller: Smaller | None = None
    once: Once | None = None
    tool: str | None = None

    @property
    def beyond(self) -> int:
        """A vector of what it asks for on top of what its hold has."""
        return pack(self.amounts) - (self.hold.vector if self.hold is not None and self.change in _EXACTLY else 0)


@dataclass(slots=True, eq=False)
class Judgement:
    """What came of a request.

    Attributes:
        decision: Its `denial` says why not.
        blocker: The run whose budget is in the way (it may be an ancestor); None if it is not a run's.
        tightest: (resource, what remains) of the tightest account, where somebody wants to hear it.
        crossed: Thresholds reached by charging at once.
    """

    decision: Decision = ALLOWED
    blocker: RunState | None = None
    tightest: tuple[int, int] | None = None
    crossed: Sequence[Crossing] = ()


def refused(denial: Denial, blocker: RunState | None = None) -> Judgement:
    """The judgement that is a refusal."""
    return Judgement(Decision(False, denial=denial), blocker)


#: (resource, reason, the run whose budget refused): the exception, or None if it is not to be raised again.
Pending = dict["tuple[str | None, str, RunState]", "BudgetExceeded | None"]


@dataclass(slots=True, eq=False)
class Refusals:
    """What a run was refused, in an object of its own: most runs are refused nothing, and share one.

    Attributes:
        first: The first denial; one that says something about how its budget was used, if there is one.
        ran_out: The resource of the first `limit` or `deadline` denial that its budget or request met, or None.
        pending: Raised denials that nobody has dealt with, the oldest first; None if there are none.
        times: How often each (resource, reason) was refused.
    """

    first: Denial | None = None
    ran_out: str | None = None
    pending: Pending | None = None
    times: dict[tuple[str | None, str], int] = field(default_factory=dict)


#: Those of who was refused nothing.
NONE_YET: Final = Refusals()
