"""The methods of `BudgetRun` for coroutines: the same, and an async ``on_exhausted`` or a wait is awaited."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otelbudget.runs import asking, reservation

if TYPE_CHECKING:
    from otelbudget.model.budget import Usage
    from otelbudget.model.decision import Decision
    from otelbudget.runs.idempotency import Recorded
    from otelbudget.runs.reservation import AsyncReserve
    from otelbudget.runs.run import BudgetRun

__all__ = ["AsyncMethods"]


class AsyncMethods:
    """A part of `BudgetRun`."""

    __slots__ = ()

    def areserve(self: BudgetRun, **amounts: Any) -> AsyncReserve:  # type: ignore[misc]  # mypy #9560: a mixin
        """`reserve` for coroutines: ``await`` it, or ``async with run.areserve(...) as reservation``."""
        return reservation.AsyncReserve(self, amounts)

    async def acheck(self: BudgetRun, **amounts: Any) -> Decision:  # type: ignore[misc]
        """`check` for coroutines; awaits an async ``on_exhausted``."""
        return await asking.adecide(self, self.ask("check", amounts))

    async def acan_proceed(self: BudgetRun, **amounts: Any) -> bool:  # type: ignore[misc]
        """`can_proceed` for coroutines."""
        return self.can_proceed(**amounts)

    async def arecord(self: BudgetRun, usage: Usage, *, idempotency_key: str | None = None) -> Recorded:  # type: ignore[misc]
        """`record` for coroutines."""
        return self.record(usage, idempotency_key=idempotency_key)

    async def arecord_call(self: BudgetRun, tokens: int = 0) -> None:  # type: ignore[misc]
        """`record_call` for coroutines."""
        self.record_call(tokens)

    async def aextend(self: BudgetRun, **options: Any) -> None:  # type: ignore[misc]
        """`extend` for coroutines."""
        self.extend(**options)

    async def aremaining(self: BudgetRun, *, fresh: bool = False) -> dict[str, Any]:  # type: ignore[misc]
        """`remaining` for coroutines."""
        return self.remaining(fresh=fresh)
