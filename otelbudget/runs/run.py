"""`BudgetRun`: one piece of work and what it may spend; made by `otelbudget.run()` and `run.child()`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

from otelbudget.admission import booking, closing, settlement, trips
from otelbudget.admission.cost import wanted
from otelbudget.admission.request import Once, Request
from otelbudget.model.amounts import AmountKeywords, count, nanoseconds
from otelbudget.model.budget import RunBudget, Usage
from otelbudget.runs import asking, controls, reservation, resume, tool_call
from otelbudget.runs.idempotency import CHARGED, REPLAYED, Keys, Recorded, as_key
from otelbudget.runs.remaining import Looking
from otelbudget.runs.reservation import AsyncReserve
from otelbudget.runs.scope import RunScope
from otelbudget.runs.timeout import Timeout
from otelbudget.runs.wrap_up import WrapUp

if TYPE_CHECKING:
    from otelbudget.model.decision import Decision
    from otelbudget.runs.reservation import Reservation
    from otelbudget.runs.tool_call import ToolCall

__all__ = ["BudgetRun"]


class BudgetRun(Looking):
    """What one run may spend, has spent and holds; every request of its work asks here first.

    Amount keywords everywhere: ``steps``, ``tokens``, ``input_tokens``, ``output_tokens``, ``cost_usd`` (USD),
    ``tool_calls``, ``nested_tool_calls``; ``check`` and ``can_proceed`` also take ``seconds``. None at all mean one
    model call. A token or cost amount implies one step unless ``steps`` is given. ``model`` says which model is called,
    where quotas of models are to be asked as well.

    It has a ``run_id`` (32 hex digits), ``tenant``, ``user``, ``org``, ``priority``, the ``budget`` it was opened with,
    a ``parent`` (the run it is a shared or carved child of, or None) and a ``depth`` (0 for a root run).
    """

    __slots__ = ()

    # --- asking

    def check(self, **amounts: Unpack[AmountKeywords]) -> Decision:
        """Whether this much fits right now. Advisory: nothing is held, so use `reserve` where several calls compete.

        Raises:
            BudgetExceeded: It does not fit; says what, where, how much was used, and how to raise it.
            ValueError: An amount is negative, not finite or not a number.
        """
        return asking.decide(self, self.ask("check", dict(amounts)))

    def can_proceed(self, **amounts: Any) -> bool:
        """Whether `check` would allow this. Never raises a denial, writes no event, leaves nothing pending."""
        request = self.ask("probe", amounts)
        judge = asking.judge_of(self)
        judged = judge(self, request)
        if not judged.decision.allowed and closing.settle_overdue(self.engine):
            judged = judge(self, request)
        return booking.probed(self, judged)

    def reserve(self, **amounts: Any) -> Reservation:
        """Hold this much until it is committed or released: the way to be exact while several calls are in flight.

        Example:
            >>> with run.reserve(tokens=500, cost_usd=0.01) as reservation:  # doctest: +SKIP
            ...     reservation.commit(Usage(input_tokens=80, output_tokens=20, cost_usd=0.002))

        With ``wait_s`` it waits so many seconds at most while open holds, a freeze or a limit refuse it. With
        ``idempotency_key`` the same request once more, as long as the run is open, gives the same reservation, settled
        or not, and marks it ``replayed``; a refused one leaves no key. A retry of one call reserves ``steps=0``.

        Raises:
            BudgetExceeded: It does not fit; nothing is held anywhere.
            IdempotencyError: The key has been used in this run for something else.
        """
        return reservation.reserve(self, amounts, self.keys_here() if "idempotency_key" in amounts else None)

    def ask(self, operation: str, given: dict[str, Any]) -> Request:
        """What the keywords of a check mean; for the modules of this folder."""
        seconds_ns = nanoseconds("seconds", given.pop("seconds")) if "seconds" in given else None
        _, site, owner, permit = self.around()
        amounts, model, unpriced = wanted(self, given, owner, timed=seconds_ns is not None)
        return Request(
            operation, amounts, site, model, owner, permit=permit, unpriced=unpriced, seconds_ns=seconds_ns or 0
        )

    def keys_here(self) -> Keys:
        """Its idempotency keys; for the modules of this folder."""
        keys: Keys = self.keys or Keys(self.engine, "a run")
        self.keys = keys
        return keys

    # --- spending

    def record(self, usage: Usage, *, idempotency_key: str | None = None) -> Recorded:
        """Charge what was used, over the limit too. Never raises a denial.

        Returns:
            Whether it was ``replayed``: charged under the same *idempotency_key* before, so that nothing has changed.

        Raises:
            IdempotencyError: That key has been used in this run for something else; nothing is charged.
        """
        if not isinstance(usage, Usage):
            raise TypeError(f"record() takes a Usage, got {usage!r}; for tokens alone use record_call(tokens)")
        once = None
        if idempotency_key is not None:
            once = self.keys_here().once(self.tenant, as_key(idempotency_key), Once("record", usage))
        _, site, owner, permit = self.around()
        done = settlement.record(self, usage, site, permit=permit, once=once, owner=owner)
        return CHARGED if done else REPLAYED

    def record_call(self, tokens: int = 0) -> None:
        """Charge one model call of *tokens* tokens."""
        self.record(Usage(tokens=count("tokens", tokens)))

    def tool_call(self, name: str, *, call_id: str | None = None) -> ToolCall:
        """A tool call as a block (``with`` or ``async with``): refused before it starts, charged when it does.

        Example:
            >>> with run.tool_call("search"):  # doctest: +SKIP
            ...     hits = search(query)

        Several that go together are held all or not at all with ``reserve(tool_calls=3)``.

        Raises:
            BudgetExceeded: On entering, when no tool call (or no nested one, inside another) is left.
            TypeError: *name* is no text or empty, or *call_id* neither text nor None.
        """
        if not tool_call.is_name(name, call_id):
            raise TypeError(f"a tool call needs a name, and a call id that is text or None, got {name!r}, {call_id!r}")
        return tool_call.ToolCall(self, name, call_id)

    # --- children and the end

    def timeout(self) -> Timeout:
        """A block (``async with``) whose work is cancelled when the run's time, or that of a run above it, is over.

        Like `asyncio.timeout`, but it raises BudgetExceeded (``deadline``), on entering if the time is over by then,
        and follows ``extend(seconds=...)`` and `reset`, also from other threads. Without a deadline it does nothing.
        """
        return Timeout(self)

    def child(self, budget: str | RunBudget | None = None, **options: Any) -> RunScope[BudgetRun]:
        """A run inside this one, as a block: what it spends counts for both. Options as in `otelbudget.run`.

        Without a *budget* it has no limits of its own: this run's bind it.
        """
        return RunScope(BudgetRun, self.engine, budget, parent=self, **options)

    def wrap_up(self) -> WrapUp:
        """After a denial, one last model call from what the budget's ``wrap_up`` set aside, as a block, once."""
        return WrapUp(self)

    def acknowledge(self) -> None:
        """Say that the denials so far have been dealt with: leaving the run does not raise them again."""
        self.engine.ledger.locked(self.forget)

    def extend(self, *, to: Any = None, actor: str | None = None, reason: str | None = None, **delta: Any) -> None:
        """Raise this run's own limits by *delta*, or set them: ``run.extend(to={"steps": 4})``.

        Denials of what is extended are dealt with.
        """
        controls.extend(self, delta, to, actor, reason)

    def freeze(self, *, actor: str | None = None, reason: str | None = None) -> None:
        """Refuse new calls until `unfreeze`; calls in flight go on and settle."""
        controls.freeze(self, actor, reason)

    def unfreeze(self, *, actor: str | None = None, reason: str | None = None) -> None:
        """End a `freeze`."""
        controls.freeze(self, actor, reason, frozen=False)

    def reset(self, *, actor: str | None = None, reason: str | None = None) -> None:
        """Begin anew: nothing used, no denial, the clock at zero; what is held stays held."""
        controls.reset(self, actor, reason)

    def export_state(self, *, freeze: bool = True) -> dict[str, Any]:
        """The run as it stands between calls, as JSON can carry it, for `otelbudget.resume` in this or another process.

        Its budget as extended, what it has used, its owner and its time go along; denials and idempotency keys don't.

        Args:
            freeze: Refuse new calls here, and leave the run's end to where it is resumed: leaving it is quiet and its
                outcome is ``paused``. `unfreeze` takes that back. False for a checkpoint of a run that goes on here.

        Raises:
            BudgetError: Calls are in flight, runs inside it are open, it is inside another run, or it has ended.
        """
        return resume.export(self, freeze=freeze)

    # --- for coroutines

    def areserve(self, **amounts: Any) -> AsyncReserve:
        """`reserve` for coroutines: ``await`` it, or ``async with run.areserve(...) as reservation``."""
        return AsyncReserve(self, amounts, self.keys_here() if "idempotency_key" in amounts else None)

    async def acheck(self, **amounts: Any) -> Decision:
        """`check` for coroutines; awaits an async ``on_exhausted``."""
        return await asking.adecide(self, self.ask("check", amounts))

    async def acan_proceed(self, **amounts: Any) -> bool:
        """`can_proceed` for coroutines."""
        request = self.ask("probe", amounts)
        judged = await asking.ajudge(self, request)
        if not judged.decision.allowed and closing.settle_overdue(self.engine):
            judged = await asking.ajudge(self, request)
        return booking.probed(self, judged)

    async def arecord(self, usage: Usage, *, idempotency_key: str | None = None) -> Recorded:
        """`record` for coroutines."""
        return self.record(usage, idempotency_key=idempotency_key)

    async def arecord_call(self, tokens: int = 0) -> None:
        """`record_call` for coroutines."""
        self.record_call(tokens)

    async def aextend(self, **options: Any) -> None:
        """`extend` for coroutines."""
        self.extend(**options)

    async def aremaining(self, *, fresh: bool = False) -> dict[str, Any]:
        """`remaining` for coroutines."""
        if fresh:
            await trips.arefresh(self)
        return self.remaining()

    def __repr__(self) -> str:
        name = f" {self.budget.name!r}" if self.budget.name else ""
        return f"<BudgetRun{name} {self.run_id[:8]} of {self.tenant!r}, {self.state}>"
