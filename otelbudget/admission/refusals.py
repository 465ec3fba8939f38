"""What a run was refused, in an object of its own: most runs are refused nothing, and share one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from otelbudget.admission.state import RunState
    from otelbudget.errors import BudgetExceeded
    from otelbudget.model.decision import Denial

#: (resource, reason, the run whose budget refused): the exception, or None if it is not to be raised again.
Pending = dict["tuple[str | None, str, RunState]", "BudgetExceeded | None"]


@dataclass(slots=True, eq=False)
class Refusals:
    """What a run was refused.

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
