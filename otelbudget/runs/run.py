"""`BudgetRun`: one piece of work and what it may spend; made by `otelbudget.run()` and `run.child()`."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from functools import partial
from typing import Any, Unpack

from otelbudget.admission import booking, closing, settlement, trips
from otelbudget.admission.request import Once
from otelbudget.admission.state import RunState
from otelbudget.model.amounts import Money, count
from otelbudget.model.budget import RunBudget
from otelbudget.model.decision import Decision
from otelbudget.model.keywords import AmountKeywords, LimitKeywords, ReserveKeywords
from otelbudget.model.usage import Usage
from otelbudget.runs import asking, controls, reserving, resume, tool_call
from otelbudget.runs.blocks import Timeout, WrapUp
from otelbudget.runs.reservation import CHARGED, REPLAYED, Recorded, Reservation, unpaid
from otelbudget.runs.reserving import as_key, keys_of
from otelbudget.runs.scope import RunOptions, RunScope
from otelbudget.runs.tool_call import ToolCall
from otelbudget.runs.view import RunView


class BudgetRun(RunView):
    """What one run may spend, has spent and holds; every request of its work asks here first.

    Amount keywords everywhere: ``steps``, ``tokens``, ``input_tokens``, ``output_tokens``, ``cost_usd`` (USD),
    ``tool_calls``, ``nested_tool_calls``; ``check`` and ``can_proceed`` also take ``seconds``. None at all mean one
    model call. A token or cost amount implies one step unless ``steps`` is given. ``model`` says which model is called,
    where quotas of models are to be asked as well.
    """

    __slots__ = ()

    # --- asking

    def check(self, **amounts: Unpack[AmountKeywords]) -> Decision:
        """Whether this much fits right now. Advisory: nothing is held, so use `reserve` where several calls compete.

        Raises:
            BudgetExceeded: It does not fit; says what, where, how much was used, and how to raise it.
            ValueError: An amount is negative, not finite or not a number.
        """
        return asking.decide(self._state, asking.asked(self._state, "check", amounts))

    def can_proceed(self, **amounts: Unpack[AmountKeywords]) -> bool:
        """Whether `check` would allow this. Never raises a denial, writes no event, leaves nothing pending."""
        run = self._state
        request = asking.asked(run, "probe", amounts)
        closing.settle_overdue(run.engine)
        return booking.probed(run, asking.judge_of(run)(run, request))

    def reserve(self, **amounts: Unpack[ReserveKeywords]) -> Reservation:
        """Hold this much until it is committed or released: the way to be exact while several calls are in flight.

        Example:
            >>> with run.reserve(tokens=500, cost_usd=0.01) as reservation:  # doctest: +SKIP
            ...     reservation.commit(Usage(input_tokens=80, output_tokens=20, cost_usd=0.002))

        With ``wait_s`` it waits so many seconds at most while open holds, a freeze or a limit refuse it. ``on_unknown``
        says what leaving the block by an exception charges: the hold (``full``), its ``input`` or nothing (``open``).
        With ``idempotency_key`` the same request once more, as long as the run is open, gives the same reservation,
        settled or not, and marks it ``replayed``; a refused one leaves no key. The keys of a shared run are those of
        all its processes. A retry of one call reserves ``steps=0``.

        Raises:
            BudgetExceeded: It does not fit; nothing is held anywhere.
            IdempotencyError: The key has been used in this run for something else.
        """
        return reserving.reserve(self._state, amounts)

    # --- spending

    def record(self, usage: object, *, idempotency_key: str | None = None) -> Recorded:
        """Charge what was used, over the limit too. Never raises a denial.

        A call that a guard or a span has charged already is charged nothing more, and warned of once: that with the
        same response id, else the last one made here, if it used as many tokens, of input too if that is said.

        Args:
            usage: A `Usage`, or what `Usage.of` reads: an answer, a message, or the usage that it reports.

        Returns:
            Whether it was ``replayed``: charged before, under the same *idempotency_key* or by its guard, and nothing
            has changed.

        Raises:
            IdempotencyError: That key has been used in this run for something else; nothing is charged.
        """
        run, found = self._state, Usage.reported(usage)
        if found is None:
            kind = type(usage).__name__
            raise TypeError(
                f"found no usage in this {kind}; give a Usage, or what reports one, or use record_call(tokens)"
            )
        if idempotency_key is None:
            return _recorded(run, found)
        with keys_of(run).asking(run.tenant, Once("record", as_key(idempotency_key), found)) as once:
            return _recorded(run, found, once)

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
        if not (isinstance(name, str) and name and isinstance(call_id, str | None)):
            raise TypeError(f"a tool call needs a name, and a call id that is text or None, got {name!r}, {call_id!r}")
        return tool_call.ToolCall(self._state, name, call_id)

    # --- children and the end

    def timeout(self) -> Timeout:
        """A block (``async with``) whose work is cancelled when the run's time, or that of a run above it, is over.

        Like `asyncio.timeout`, but it raises BudgetExceeded (``deadline``), on entering if the time is over by then,
        and follows ``extend(seconds=...)`` and `reset`, also from other threads. Without a deadline it does nothing.
        """
        return Timeout(self._state)

    def child(self, budget: str | RunBudget | None = None, **options: Unpack[RunOptions]) -> RunScope:
        """A run inside this one, as a block: what it spends counts for both. Options as in `otelbudget.run`.

        Without a *budget* it has no limits of its own: this run's bind it.
        """
        return RunScope(lambda: self._state.engine, budget, parent=self._state, **options)

    def wrap_up(self) -> WrapUp:
        """After a denial, one last model call from what the budget's ``wrap_up`` set aside, as a block, once."""
        return WrapUp(self._state)

    def acknowledge(self) -> None:
        """Say that the denials so far have been dealt with: leaving the run does not raise them again."""
        self._state.engine.ledger.locked(self._state.forget)

    def extend(
        self,
        *,
        to: Mapping[str, Money] | None = None,
        actor: str | None = None,
        reason: str | None = None,
        **delta: Unpack[LimitKeywords],
    ) -> None:
        """Raise this run's own limits by *delta*, or set them: ``run.extend(to={"steps": 4})``.

        Denials of what is extended are dealt with.

        Raises:
            StoreError: The store of a shared run did not answer; the message says if it may have been extended.
        """
        controls.extend(self._state, delta, to, actor, reason)

    def freeze(self, *, actor: str | None = None, reason: str | None = None) -> None:
        """Refuse new calls until `unfreeze`; calls in flight go on and settle."""
        controls.freeze(self._state, actor, reason)

    def unfreeze(self, *, actor: str | None = None, reason: str | None = None) -> None:
        """End a `freeze`."""
        controls.freeze(self._state, actor, reason, frozen=False)

    def reset(self, *, actor: str | None = None, reason: str | None = None) -> None:
        """Begin anew: nothing used, no denial, the clock at zero; what is held stays held."""
        controls.reset(self._state, actor, reason)

    def export_state(self, *, freeze: bool = True) -> dict[str, Any]:
        """The run as it stands between calls, as JSON can carry it, for `otelbudget.resume` in this or another process.

        Its budget as extended, what it has used, its owner and its time go along; denials and idempotency keys don't.

        Args:
            freeze: Refuse new calls here, and leave the run's end to where it is resumed: leaving it is quiet and its
                outcome is ``paused``. `unfreeze` takes that back. False for a checkpoint of a run that goes on here.

        Raises:
            BudgetError: Calls are in flight, a tool that a framework's hook holds among them, runs inside it are open,
                it is inside another run, or it has ended.
        """
        return resume.export(self._state, freeze=freeze)

    # --- for coroutines

    def areserve(self, **amounts: Unpack[ReserveKeywords]) -> Coroutine[Any, Any, Reservation]:
        """`reserve` for coroutines: ``async with await run.areserve(...) as reservation``."""
        return reserving.areserve(self._state, amounts)

    async def acheck(self, **amounts: Unpack[AmountKeywords]) -> Decision:
        """`check` for coroutines; awaits an async ``on_exhausted``."""
        return await asking.adecide(self._state, asking.asked(self._state, "check", amounts))

    async def acan_proceed(self, **amounts: Unpack[AmountKeywords]) -> bool:
        """`can_proceed` for coroutines."""
        run = self._state
        request = asking.asked(run, "probe", amounts)
        closing.settle_overdue(run.engine)
        return booking.probed(run, await asking.ajudge(run, request))

    async def arecord(self, usage: object, *, idempotency_key: str | None = None) -> Recorded:
        """`record` for coroutines."""
        record = partial(self.record, usage, idempotency_key=idempotency_key)
        if idempotency_key is None or self._state.sharing is None:
            return record()
        return await asyncio.to_thread(record)  # it asks the store

    async def arecord_call(self, tokens: int = 0) -> None:
        """`record_call` for coroutines."""
        self.record_call(tokens)

    async def aextend(
        self,
        *,
        to: Mapping[str, Money] | None = None,
        actor: str | None = None,
        reason: str | None = None,
        **delta: Unpack[LimitKeywords],
    ) -> None:
        """`extend` for coroutines."""
        extend = partial(self.extend, to=to, actor=actor, reason=reason, **delta)
        if self._state.sharing is None:
            extend()
        else:  # it asks the store
            await asyncio.to_thread(extend)

    async def aremaining(self, *, fresh: bool = False) -> dict[str, Any]:
        """`remaining` for coroutines."""
        if fresh:
            await trips.arefresh(self._state)
        return self.remaining()


def _recorded(run: RunState, usage: Usage, once: Once | None = None) -> Recorded:
    told, usage = usage, unpaid(run, usage)
    if told is not usage and once is None:
        return REPLAYED
    here = run.around()
    done = settlement.record(run, usage, here.site, permit=here.permit, once=once, owner=here.owner)
    return CHARGED if done else REPLAYED


RunState.handle = BudgetRun
