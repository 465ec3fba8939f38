"""`QuotaReservation`: what `QuotaService.reserve` holds, until it is settled."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

from otelbudget.model.amounts import count
from otelbudget.model.budget import Usage

if TYPE_CHECKING:
    from otelbudget.runs.idempotency import Recorded
    from otelbudget.runs.reservation import Reservation

__all__ = ["QuotaReservation"]


class QuotaReservation:
    """Amounts held on a tenant's quotas, in the windows in which they were reserved, also when those have ended.

    As a block: leaving it unsettled charges the whole hold and warns; leaving it by an exception does what
    *on_unknown* of `QuotaService.reserve` says.
    """

    __slots__ = ("_held", "_model", "_steps")

    def __init__(self, held: Reservation, steps: int, model: str | None) -> None:
        self._held = held
        self._steps = steps
        self._model = model

    @property
    def held(self) -> dict[str, Any]:
        """What it holds, ``{resource: amount}`` without zeros; nothing once it is settled."""
        return self._held.held

    @property
    def settled(self) -> bool:
        """Whether it was committed, released or has expired."""
        return self._held.settled

    @property
    def replayed(self) -> bool:
        """Whether it has been given once more, to a request with the same idempotency key."""
        return self._held.replayed

    def commit(self, used: int | Usage | None = None) -> Recorded:
        """Charge what was used, over the hold too, and give the rest back.

        Args:
            used: Tokens; or a `Usage`, which may leave open what it does not know; None charges the hold.

        Returns:
            Whether that was ``replayed``: the same once more, and nothing has changed.

        Raises:
            IdempotencyError: Something else was committed before.
        """
        if used is not None and not isinstance(used, Usage):
            used = Usage(tokens=count("tokens", used), steps=self._steps, model=self._model)
        return self._held.commit(used)

    @property
    def already_settled(self) -> bool:
        """Whether a `release` has come after it was settled, and changed nothing."""
        return self._held.already_settled

    def release(self) -> bool:
        """Give everything back; False if it was ``already_settled``, and nothing has changed then."""
        return self._held.release()

    def extend(self, **delta: Any) -> None:
        """Hold more.

        Raises:
            BudgetExceeded: It does not fit; the hold is unchanged.
            ValueError: It was settled before.
        """
        self._held.extend(**delta)

    def __enter__(self) -> QuotaReservation:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._held.__exit__(kind, error, tb)
