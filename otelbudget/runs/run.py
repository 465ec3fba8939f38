"""`BudgetRun`: one piece of work and what it may spend; made by `otelbudget.run()` and `run.child()`."""

from __future__ import annotations

from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Unpack

from opentelemetry.context import get_current

from otelbudget.admission import admission, denying
from otelbudget.admission import settlement as accounting
from otelbudget.admission.wanted import wanted
from otelbudget.ledger import ledger
from otelbudget.model.amounts import (
    INPUT,
    STEPS,
    TOKENS,
    UNLIMITED,
    OtherAmounts,
    count,
    nanoseconds,
)
from otelbudget.model.budget import RunBudget, Usage
from otelbudget.model.decision import ALLOWED, Decision
from otelbudget.runs import asking, controls, reservation, resume
from otelbudget.runs import scope as lifecycle
from otelbudget.runs import tool_call as tools
from otelbudget.runs import wrap_up as wrapping
from otelbudget.runs.asynchronous import AsyncMethods
from otelbudget.runs.idempotency import CHARGED, REPLAYED, Keyed, Recorded, as_key
from otelbudget.runs.remaining import Looking
from otelbudget.runs.timeout import Timeout
from otelbudget.stores.memory import drop
from otelbudget.telemetry import events
from otelbudget.telemetry.events import Site

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otelbudget.runs.reservation import Reservation
    from otelbudget.runs.scope import RunScope
    from otelbudget.runs.tool_call import ToolCall
    from otelbudget.runs.wrap_up import WrapUp

__all__ = ["BudgetRun"]


class BudgetRun(Looking, AsyncMethods):
    """What one run may spend, has spent and holds; every request of its work asks here first.

    Amount keywords everywhere: ``steps``, ``tokens``, ``input_tokens``, ``output_tokens``, ``cost_usd`` (USD),
    ``tool_calls``, ``nested_tool_calls``; ``check`` and ``can_proceed`` also take ``seconds``. None at all mean one
    model call. A token or cost amount implies one step unless ``steps`` is given. ``model`` says which model is called,
    where quotas of models are to be asked as well.

    Attributes:
        run_id: Its id, 32 hex digits.
        tenant, user: Whose it is; user may be None.
        budget: What it was opened with.
        org, priority: The organisation that the tenant belongs to, and how important its calls are.
        parent: The run it is a shared or carved child of, or None.
        depth: 0 for a root run.
    """

    __slots__ = ()

    # --- asking

    def check(self, *, steps: int | None = None, tokens: int | None = None, **others: Unpack[OtherAmounts]) -> Decision:
        """Whether this much fits right now. Advisory: nothing is held, so use `reserve` where several calls compete.

        Returns:
            A true `Decision`.

        Raises:
            BudgetExceeded: It does not fit; says what, where, how much was used, and how to raise it.
            ValueError: An amount is negative, not finite or not a number.
        """
        if self.plain and not others and type(steps) is int and type(tokens) is int and not (steps | tokens) >> 53:
            # A root run in its ordinary state, both amounts from 0 to 2^53 - 1. Written out, without calls, since this
            # is what an agent pays at every step; what does not fit is judged in full below.
            context = get_current()
            here = self.here
            site = here[1] if here[0] is context else self._look(context)
            cell, account = self.cell, self.account
            used, room = account.used, account.room
            began_ns = 0 if cell.check & 63 else perf_counter_ns()
            lock = self.lock
            try:  # acquired inside: a signal handler may raise as soon as the call returns
                lock.acquire()
                fits = (
                    used[STEPS] + steps <= room[STEPS]
                    and used[TOKENS] + tokens <= room[TOKENS]
                    and used[INPUT] + tokens <= room[INPUT]
                    and ((until_ns := self.until_ns) >= UNLIMITED or self.clock_ns() < until_ns)
                )
                if fits:
                    cell.check += 1
                    left = None if site.span is None else ledger.tightest(self.accounts)
                lock.release()
            except BaseException:
                drop(lock)
                raise
            if fits:
                if began_ns:
                    denying.observe(self, "check", began_ns, site)
                span = site.span
                if span is not None:
                    if not span.is_recording():
                        self.say(site, events.check_event, "allow", left)
                    elif not events.check_event(site, "allow", left):
                        self.suppress(site)
                return ALLOWED
        given: dict[str, Any] = {**others}
        if steps is not None:
            given["steps"] = steps
        if tokens is not None:
            given["tokens"] = tokens
        return asking.decide(self, self.ask("check", given))

    def can_proceed(self, **amounts: Any) -> bool:
        """Whether `check` would allow this. Never raises a denial, never latches, writes no event."""
        decision = denying.judge(self, self.ask("probe", amounts)).decision
        if decision.denial is not None and not decision.allowed:
            with self.engine.lock:
                self.cell.count("probe", "deny", decision.denial.reason)
        return decision.allowed

    def reserve(self, **amounts: Any) -> Reservation:
        """Hold this much until it is committed or released: the way to be exact while several calls are in flight.

        Example:
            >>> with run.reserve(tokens=500, cost_usd=0.01) as reservation:  # doctest: +SKIP
            ...     reservation.commit(Usage(input_tokens=80, output_tokens=20, cost_usd=0.002))

        With ``wait_s`` it waits so many seconds at most until it fits, while open holds, a freeze or a limit refuse it.
        With ``idempotency_key`` the same request once more, as long as the run is open, gives the same reservation,
        settled or not, and marks it ``replayed``; a refused one leaves no key behind. A retry of a call that has paid
        its step takes ``steps=0``.

        Raises:
            BudgetExceeded: It does not fit; nothing is held anywhere.
            IdempotencyError: The key has been used in this run for something else.
        """
        return reservation.reserve(self, amounts)

    def ask(self, operation: str, given: dict[str, Any]) -> admission.Ask:
        """What the keywords of a check mean; for the modules of this folder."""
        seconds = given.pop("seconds", None)
        amounts, model, unpriced = wanted(self, given, timed=seconds is not None)
        ask = admission.Ask(
            amounts, operation, site=self.site_here(), permit=wrapping.permit(), model=model, unpriced=unpriced
        )
        ask.seconds_ns = 0 if seconds is None else nanoseconds("seconds", seconds)
        return ask

    # --- spending

    def record(self, usage: Usage, *, idempotency_key: str | None = None, site: Site | None = None) -> Recorded:
        """Charge what was used, over the limit too. Never raises a denial.

        Returns:
            Whether it was ``replayed``: charged under the same *idempotency_key* before, so that nothing has changed.

        Raises:
            IdempotencyError: That key has been used in this run for something else; nothing is charged.
        """
        if not isinstance(usage, Usage):
            raise TypeError(f"record() takes a Usage, got {usage!r}; for tokens alone use record_call(tokens)")
        key = as_key(idempotency_key)
        once = None if key is None else Keyed(self, key, usage)
        charged = accounting.record(self, usage, self.site_here() if site is None else site, once=once)
        return CHARGED if charged else REPLAYED

    def record_call(self, tokens: int = 0) -> None:
        """Charge one model call of *tokens* tokens."""
        if not (self.plain and type(tokens) is int and not tokens >> 53) or self.money_limited:
            accounting.record(self, Usage(tokens=count("tokens", tokens)), self.site_here())
            return
        context = get_current()
        here = self.here
        site = here[1] if here[0] is context else self._look(context)
        account = self.account
        used, marks = account.used, account.marks
        crossed: Sequence[ledger.Crossing] = ()
        lock = self.lock
        try:  # written out like _fits, and for the same reason
            lock.acquire()
            steps = used[STEPS] = used[STEPS] + 1
            total = used[TOKENS] = used[TOKENS] + tokens
            given = used[INPUT] = used[INPUT] + tokens
            self.cell.records += 1
            self.spend_cell.input += tokens
            if steps >= marks[STEPS] or total >= marks[TOKENS] or given >= marks[INPUT]:
                crossed = ledger.crossings(account)
            lock.release()
        except BaseException:
            drop(lock)
            raise
        if site.span is not None or crossed:
            accounting.announce(self, (1, tokens, tokens, 0, 0), site, crossed)

    def tool_call(self, name: str, *, call_id: str | None = None) -> ToolCall:
        """A tool call as a block (``with`` or ``async with``): refused before it starts, charged when it does.

        Tools that run all or not at all are held by ``reserve(tool_calls=3)``.

        Example:
            >>> with run.tool_call("search"):  # doctest: +SKIP
            ...     hits = search(query)

        Raises:
            BudgetExceeded: On entering, when no tool call (or no nested one, inside another) is left.
            TypeError: *name* is no text or empty, or *call_id* neither text nor None.
        """
        if not tools.is_name(name, call_id):
            raise TypeError(f"a tool call needs a name, and a call id that is text or None, got {name!r}, {call_id!r}")
        return tools.ToolCall(self, name, call_id)

    # --- children and the end

    def timeout(self) -> Timeout:
        """A block (``async with``) whose work is cancelled when the run's time, or that of a run above it, is over.

        Like `asyncio.timeout`, but it raises BudgetExceeded (``deadline``), on entering if the time is over by then,
        and follows ``extend(seconds=...)`` and `reset`, also from other threads. Without a deadline it does nothing.
        """
        return Timeout(self)

    def child(self, budget: str | RunBudget | None = None, **options: Any) -> RunScope:
        """A run inside this one, as a block: what it spends counts for both. Options as in `otelbudget.run`."""
        return lifecycle.RunScope(self.engine, budget, parent=self, **options)

    def wrap_up(self) -> WrapUp:
        """After a denial, one last model call from what the budget's ``wrap_up`` set aside, as a block, once."""
        return wrapping.WrapUp(self)

    def acknowledge(self) -> None:
        """Say that the denials so far have been dealt with: leaving the run does not raise them again."""
        with self.lock:
            dealt = self.forget()
        del dealt

    def extend(self, *, to: Any = None, actor: str | None = None, reason: str | None = None, **delta: Any) -> None:
        """Raise this run's own limits by *delta*, or set them: ``run.extend(to={"steps": 4})``. Clears their latch."""
        controls.extend(self, delta, to, actor, reason)

    def freeze(self, *, actor: str | None = None, reason: str | None = None) -> None:
        """Refuse new calls until `unfreeze`; calls in flight go on and settle."""
        controls.freeze(self, actor, reason)

    def unfreeze(self, *, actor: str | None = None, reason: str | None = None) -> None:
        """End a `freeze`."""
        controls.unfreeze(self, actor, reason)

    def reset(self, *, actor: str | None = None, reason: str | None = None) -> None:
        """Begin anew: nothing used, no denial, the clock at zero; what is held stays held."""
        controls.reset(self, actor, reason)

    def export_state(self, *, freeze: bool = True) -> dict[str, Any]:
        """The run as it stands, as values that JSON can carry, for `otelbudget.resume` in this or another process.

        Its id and owner, its limits as they are by now, what it has used and the time that has passed go along, a
        freeze too. Holds can't, so it has to be between calls. Pending denials stay here: leaving the run raises them,
        as ever. Idempotency keys stay here too, and what is recorded here afterwards.

        Args:
            freeze: Refuse new calls here, and leave the run's end to where it is resumed: its outcome here is
                ``paused``. `unfreeze` takes that back. False for a checkpoint of a run that goes on here.

        Raises:
            BudgetError: Calls are in flight, runs inside it are open, it is inside another run, or it has ended.
        """
        return resume.export(self, freeze=freeze)

    def __repr__(self) -> str:
        name = f" {self.budget.name!r}" if self.budget.name else ""
        return f"<BudgetRun{name} {self.run_id[:8]} of {self.tenant!r}, {self.state}>"
