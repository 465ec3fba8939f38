"""`RunScope`: a run as a ``with`` or ``async with`` block or a decorator; what leaving it raises."""

from __future__ import annotations

import asyncio
import contextlib
from copy import copy
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from opentelemetry import trace
from opentelemetry.context import attach, detach, get_current
from opentelemetry.trace import Status, StatusCode

from otelbudget import semconv
from otelbudget.admission import closing, denying, refusals
from otelbudget.admission.admission import Ask, Verdict
from otelbudget.engine import scope
from otelbudget.errors import BudgetExceeded, found_in
from otelbudget.model.amounts import NOTHING
from otelbudget.model.decision import Decision
from otelbudget.model.quota import check_priority
from otelbudget.runs import child as carving
from otelbudget.runs import decorator as decorating
from otelbudget.runs import resume
from otelbudget.telemetry import events, our_spans
from otelbudget.telemetry.events import site_of, type_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextvars import Token
    from types import TracebackType

    from opentelemetry.context import Context

    from otelbudget.engine.engine import Engine
    from otelbudget.engine.owner import Owner
    from otelbudget.model.budget import RunBudget
    from otelbudget.runs.child import Carve
    from otelbudget.runs.run import BudgetRun

__all__ = ["RunScope"]

F = TypeVar("F", bound="Callable[..., Any]")
Mode = Literal["shared", "carve", "detached"]
#: Exceptions that steer the program and pass a run unchanged, whatever is pending.
_STEERING = (asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit)


class RunScope:
    """A run to be entered: ``with``, ``async with``, or a decorator that opens one per call.

    Args:
        engine: Whose run.
        budget: A configured budget's name, a RunBudget, or None for the default.
        org, tenant, user: Whose it is; inside another run None means the same as there.
        priority: ``low``, ``normal`` or ``high``; None means normal, or the same as the run around it.
        parent: The run it is part of; None takes the explicit run of this context, else that of the agent's span.
        mode: ``shared`` charges the run around it too, ``carve`` also keeps *carve* of it from the start, ``detached``
            does neither.
        carve: ``{resource: amount}``, or the share, above 0 and at most 1, of what the run around it has left; None
            takes the limits of *budget*.
        reraise: Raise a pending denial when the block is left.
        resumed: The state of the run that it continues, as a root run; *budget* is what that says.
    """

    def __init__(
        self,
        engine: Engine,
        budget: str | RunBudget | None = None,
        *,
        org: str | None = None,
        tenant: str | None = None,
        user: str | None = None,
        priority: str | None = None,
        parent: BudgetRun | None = None,
        mode: Mode = "shared",
        carve: Carve | None = None,
        reraise: bool = True,
        resumed: Mapping[str, Any] | None = None,
    ) -> None:
        if mode not in ("shared", "carve", "detached"):
            raise ValueError(f"mode must be 'shared', 'carve' or 'detached', got {mode!r}")
        if carve is not None and mode != "carve":
            raise ValueError("carve goes with mode='carve'")
        if priority is not None:
            check_priority(priority)
        for name, value in (("org", org), ("tenant", tenant), ("user", user)):
            if value is not None and not isinstance(value, str):
                raise TypeError(f"{name} must be text, got {value!r} ({type(value).__name__})")
            if value == "":
                raise ValueError(f"{name} must be a name or None, got ''")
        self._engine = engine
        self._budget = engine.budget(budget)
        self._options: dict[str, Any] = {
            "org": org,
            "tenant": tenant,
            "user": user,
            "priority": priority,
            "parent": parent,
            "mode": mode,
            "carve": carve,
            "resumed": resumed,
        }
        self._reraise = reraise
        self._run: BudgetRun | None = None
        self._token: Token[Context] | None = None

    def open(self) -> tuple[BudgetRun, Context]:
        """A new run with its span, and the context in which it is the current one."""
        engine = self._engine
        closing.tend(engine)
        run = self._make()
        try:
            state = self._options["resumed"]
            links = None if state is None else resume.links(state)
            span = our_spans.start(engine.tracer, f"{semconv.RUN_SPAN} {self._budget.name or 'custom'}", links=links)
            run.span = span
            run.site = site_of(span)
            closing.write_limits(run, span)
            return run, scope.with_run(trace.set_span_in_context(span), run)
        except BaseException:  # nobody would ever close it
            closing.discard(run)
            raise

    def _make(self) -> BudgetRun:
        from otelbudget.runs.run import BudgetRun

        engine, options = self._engine, self._options
        if options["resumed"] is not None:
            return resume.rebuild(engine, self._budget, options["resumed"], reraise=self._reraise)
        who = {name: options[name] for name in ("org", "tenant", "user", "priority")}
        parent = None if options["mode"] == "detached" else options["parent"] or self._part_of(who)
        wants = None
        if parent is not None:
            # A run that nobody opened names no user, so one inside may; of one with a known tenant that is another.
            _check_owner(parent, who if parent.tenant_said else {**who, "user": None})
            who = {name: given or getattr(parent, name) for name, given in who.items()}
            _check_depth(parent)
        elif who["tenant"] is None:
            who["tenant"] = engine.tenant_here(get_current())
        if options["mode"] == "carve":
            if parent is None:
                raise ValueError("mode='carve' keeps a part of the run around it, and there is none here")
            wants = carving.wanted(options["carve"], self._budget, parent)
        owner = engine.owners.owner(**who)
        run = BudgetRun(engine, self._budget, owner, parent=parent, reraise=self._reraise, carved=wants is not None)
        if parent is not None and wants is not None:
            try:
                carving.hold(run, parent, wants)
            except BaseException:
                closing.discard(run)
                raise
        return run

    def _part_of(self, who: Mapping[str, str | None]) -> BudgetRun | None:
        """The run that this one is part of; none if that is only by default another tenant's than *who* says.

        Raises:
            ValueError: It is part of no run, but of a request or job that is known to be another tenant's.
        """
        around = self._around()
        if around is not None:
            apart = not around.tenant_said and any(who[n] not in (None, getattr(around, n)) for n in ("org", "tenant"))
            return None if apart else around
        spans = self._engine.live_spans
        owner = None if spans is None else spans.runs.owner_said(get_current())
        if owner is not None:
            _check_owner(owner, {**who, "user": None})
        return None

    def _around(self) -> BudgetRun | None:
        """The run that this one is part of: an explicit one or an agent's, not that of a whole request or job."""
        context = get_current()
        run = scope.run_in(context)
        if run is None and self._engine.live_spans is not None:
            run = self._engine.live_spans.runs.of_agent(context)
        return run if run is not None and run.engine is self._engine and not run.closed else None

    def __enter__(self) -> BudgetRun:
        if self._run is not None:
            raise RuntimeError("this run was entered before: make a new one with otelbudget.run(...)")
        self._run, context = self.open()
        self._token = attach(context)
        return self._run

    def __exit__(self, kind: Any, error: BaseException | None, tb: TracebackType | None) -> Literal[False]:
        run, token = self._run, self._token
        if run is not None and token is not None:
            self._token = None
            detach(token)
            leave(run, error)
        return False

    async def __aenter__(self) -> BudgetRun:
        return self.__enter__()

    async def __aexit__(self, kind: Any, error: BaseException | None, tb: TracebackType | None) -> Literal[False]:
        return self.__exit__(kind, error, tb)

    def __call__(self, function: F) -> F:
        """Open a run for each call of *function*: plain, async, generator or async generator."""
        return decorating.decorate(self, function)

    def copy(self) -> RunScope:
        """The same run, not entered yet."""
        return RunScope(self._engine, self._budget, reraise=self._reraise, **self._options)


def leave(run: BudgetRun, error: BaseException | None) -> None:
    """End *run*; raises its pending denial where the rules say so.

    No exception: the first pending denial. BudgetExceeded, or what steers the program: nothing, it goes on unchanged.
    Another exception that a denial caused: BudgetExceeded from it. Any other: a note is added.
    """
    pending = run.first_pending() if run.reraise else None
    kind = type(error)  # and not what the application's class says it is: that may raise
    exceeded = issubclass(kind, BudgetExceeded)
    steering = issubclass(kind, _STEERING) or (
        issubclass(kind, BaseExceptionGroup) and not issubclass(kind, Exception)  # such a one is in there
    )
    cause = None if exceeded or steering else found_in(error)
    caused = cause is not None
    exhausted = run.outcome == "exhausted" or exceeded or caused
    _describe_end(run, pending if error is None else error)
    closing.close(run, "exhausted" if exhausted else "completed" if error is None else "error")
    # Nobody asks for them any more, and their tracebacks hold the frames of whatever was refused.
    run.pending = None
    if exceeded or steering:
        return
    if error is None:
        if pending is not None:
            try:
                raise pending
            finally:
                del pending  # or this frame and the traceback would keep each other alive
    elif cause is not None:
        if run.reraise:
            raise copy(cause) from error
    elif pending is not None:
        with contextlib.suppress(Exception):  # the application's exception passes, with or without a note
            error.add_note(f"In this run a call was refused before: {pending}")


def _describe_end(run: BudgetRun, error: BaseException | None) -> None:
    """Status ERROR and its type on the run's span, if it is left by an error; steering the program is none."""
    span = run.span
    if span is None or error is None or not issubclass(type(error), Exception) or not span.is_recording():
        return
    span.set_attribute(semconv.ERROR_TYPE, type_name(error))
    what = str(error) if issubclass(type(error), BudgetExceeded) else type_name(error)
    span.set_status(Status(StatusCode.ERROR, what))


def _check_owner(parent: BudgetRun | Owner, who: Mapping[str, str | None]) -> None:
    for name in ("org", "tenant", "user"):
        wanted, given = who[name], getattr(parent, name)
        if wanted is not None and wanted != given:
            raise ValueError(
                f"a run inside a run of {name} {given!r} is part of it and can't be {name} {wanted!r}'s:"
                f" pass mode='detached' for an independent run"
            )


def _check_depth(parent: BudgetRun) -> None:
    for one in parent.lineage():
        allowed = one.budget.max_depth
        if allowed is not None and parent.depth + 1 > allowed:
            denial = refusals.too_deep(one, parent, parent.depth + 1)
            if not parent.engine.enforce or one.account.warn:
                with parent.engine.lock:
                    parent.cell.count("check", "warn", denial.reason)
                parent.say(parent.site, events.check_warned, denial)
                continue
            raise denying.refuse(
                parent, Ask(NOTHING, "check", site=parent.site), Verdict(Decision(False, denial=denial), one)
            )
