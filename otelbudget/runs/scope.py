"""`RunScope`: a run as a ``with`` or ``async with`` block or a decorator; what leaving it raises."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from contextvars import Token
from copy import copy
from dataclasses import fields
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict, TypeVar, Unpack

from opentelemetry import trace
from opentelemetry.context import Context, attach, detach, get_current
from opentelemetry.trace import Link

from otelbudget import semconv
from otelbudget.admission import closing
from otelbudget.admission.state import RunState
from otelbudget.engine import context
from otelbudget.engine.engine import UNLIMITED_BUDGET, Engine
from otelbudget.engine.owner import Names, Owner, tags_of
from otelbudget.model.budget import RunBudget
from otelbudget.model.keywords import unknown
from otelbudget.model.quota import check_priority
from otelbudget.runs import child, decorator, sharing
from otelbudget.runs.blocks import Block
from otelbudget.runs.child import Carve
from otelbudget.telemetry import our_spans
from otelbudget.telemetry.events import site_of

if TYPE_CHECKING:
    from otelbudget.runs.run import BudgetRun

F = TypeVar("F", bound=Callable[..., Any])
Mode = Literal["shared", "carve", "detached"]
_LIMITS: Final = tuple(one.name for one in fields(RunBudget) if one.init)


class RunOptions(TypedDict, total=False):
    """What `otelbudget.run` takes beside a budget."""

    org: str | None
    tenant: str | None
    user: str | None
    conversation: str | None
    tags: Mapping[str, str] | None
    priority: str | None
    mode: Mode
    carve: Carve | None
    reraise: bool
    shared: bool


class RunScope(Block):
    """A run to be entered: ``with``, ``async with``, or a decorator that opens one per call.

    Options as in `otelbudget.run`. *engine_now* gives the engine, which is asked for whenever a run is opened, as its
    budget is: a decorator may be older than `setup()`, and a configuration is reloaded. *parent* is the run it is part
    of; None takes the explicit run of this context, else that of the agent's span. *goes_on* makes the run that it
    continues, a root run, with links to its span before.
    """

    advice = "write `with otelbudget.run(...) as run:`, or `@otelbudget.run(...)` above a function"

    def __init__(
        self,
        engine_now: Callable[[], Engine],
        budget: str | RunBudget | None = None,
        *,
        parent: RunState | None = None,
        goes_on: Callable[[], tuple[RunState, list[Link]]] | None = None,
        **options: Unpack[RunOptions],
    ) -> None:
        _check_spelling(budget, options)
        self._mode, self._carve = options.get("mode", "shared"), options.get("carve")
        if self._mode not in ("shared", "carve", "detached"):
            raise ValueError(f"mode must be 'shared', 'carve' or 'detached', got {self._mode!r}")
        if self._carve is not None and self._mode != "carve":
            raise ValueError("carve goes with mode='carve'")
        self._engine_now, self._budget = engine_now, budget
        engine = self._engine = engine_now()
        if not (context.is_default(engine) and isinstance(budget, str)):  # which knows no names yet
            engine.budget(budget)
        self._who = _names(options)
        self._parent = parent
        self._reraise = options.get("reraise", True)
        self._goes_on = goes_on
        self._shared = options.get("shared", False)
        self._run: RunState | None = None
        self._token: Token[Context] | None = None
        super().__init__()

    if not TYPE_CHECKING:  # to a type checker it has no other attributes

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(f"run(...) has no {name!r} before it is entered: {self.advice}")

    def open(self) -> tuple[RunState, Context]:
        """A new run with its span, and the context in which it is the current one."""
        self.used = True
        engine = self._engine = self._engine_now()
        closing.tend(engine)
        # An exception may come at any moment: until it is enlisted, nothing but this scope knows of the run.
        run, links = (self._made(), None) if self._goes_on is None else self._goes_on()
        self._run = run
        span = our_spans.start(engine.tracer, f"{semconv.RUN_SPAN} {run.budget.name or 'custom'}", links=links)
        run.span = span
        run.site = site_of(span)
        if run.sharing is not None:
            if run.sharing.opener:
                run.sharing.open()
            run.sharing.follow()
        closing.write_limits(run, span)
        run.enlist()
        return run, context.RUN.put(sharing.carry(run, trace.set_span_in_context(span)), run)

    def _made(self) -> RunState:
        engine = self._engine
        around = self._parent or self._around()
        parent = None if self._mode == "detached" else self._parent or self._part_of(around)
        names = self._names(parent, around)
        nobodys = around is not None and not around.owner.known and self._who.tenant is None
        owner = engine.directory.owner(names, known=False if nobodys else None)
        if parent is None:
            if self._mode == "carve":
                raise ValueError("mode='carve' keeps a part of the run around it, and there is none here")
            root = sharing.root if self._shared else RunState
            return root(engine, engine.budget(self._budget), owner, reraise=self._reraise)
        if self._shared:
            raise ValueError(
                "a run inside another one is shared as far as that is: open the outermost with shared=True"
            )
        if self._mode == "carve" and any(one.sharing is not None for one in parent.lineage):
            raise ValueError("nothing can be carved out of a shared run: give the run inside it a budget of its own")
        child.check(parent)
        budget = UNLIMITED_BUDGET if self._budget is None else engine.budget(self._budget)
        wants = child.wanted(self._carve, budget, parent) if self._mode == "carve" else None
        run = RunState(engine, budget, owner, parent=parent, reraise=self._reraise)
        if wants is not None:
            child.hold(run, parent, wants)
        return run

    def _names(self, parent: RunState | None, around: RunState | None) -> Names:
        """Whose it is: as said, else as the run around it, or the request or job, that has a known tenant."""
        who, engine = self._who, self._engine
        if parent is not None:
            # A run that nobody opened names no user, so one inside may; of one with a known tenant that is another.
            _check_owner(parent.owner, who if parent.tenant_said else who._replace(user=None))
        elif around is None or not (around.tenant_said or who.tenant is None):
            around = None
            if who.tenant is None:
                who = who._replace(tenant=engine.tenant_here(get_current()))
        if around is None:
            return who
        given = around.owner.names
        if who.tenant not in (None, given.tenant):  # another tenant brings the organisation of its own entry
            given = given._replace(org=None, user=None)
        said = {name: value for name, value in who._asdict().items() if value}
        return given._replace(**{**said, "tags": tags_of({**dict(given.tags), **dict(who.tags)})})

    def _part_of(self, around: RunState | None) -> RunState | None:
        """The run that this one is part of; none if that is only by default another tenant's. ValueError if it is part
        of a request or job that is known to be another tenant's."""
        who, spans = self._who, self._engine.spans
        if around is not None:
            other = who.org not in (None, around.owner.org) or who.tenant not in (None, around.tenant)
            return None if other and not around.tenant_said else around
        owner = None if spans is None else spans.runs.owner_said(get_current())
        if owner is not None:
            _check_owner(owner, who._replace(user=None))
        return None

    def _around(self) -> RunState | None:
        """The run that this one is in: an explicit one or an agent's, not that of a whole request or job."""
        here = get_current()
        run: RunState | None = context.run_in(here)
        if self._engine.spans is not None:
            implicit = self._engine.spans.runs
            run = implicit.of_agent(here) if run is None else implicit.within(run, here)
        return run if run is not None and run.engine is self._engine else None

    def __enter__(self) -> BudgetRun:
        self._check_new()
        try:
            return self._entered(*self.open())
        except BaseException:  # nobody would ever leave it
            self._undo()
            raise

    def _check_new(self) -> None:
        if self._run:
            raise RuntimeError("this run was entered before: make a new one with otelbudget.run(...)")

    def _entered(self, run: RunState, here: Context) -> BudgetRun:
        made: BudgetRun = RunState.handle(run)
        self._token = attach(here)
        return made

    def _undo(self, *_: object) -> None:
        if self._token is not None:
            detach(self._token)
        if self._run is not None:
            closing.discard(self._run)
        if self._run is not None and self._run.sharing is not None:
            self._run.sharing.close()

    def __exit__(self, kind: Any, error: BaseException | None, tb: TracebackType | None) -> Literal[False]:
        run, token = self._run, self._token
        if run is not None and token is not None:
            self._token = None
            detach(token)
            closing.leave(run, error)
        return False

    async def __aenter__(self) -> BudgetRun:
        if not self._shared:
            return self.__enter__()
        self._check_new()
        opening = asyncio.ensure_future(asyncio.to_thread(self.open))  # it asks the store
        try:
            return self._entered(*await asyncio.shield(opening))
        except BaseException:  # cancelled, the thread may be at it yet
            opening.add_done_callback(self._undo)
            raise

    async def __aexit__(self, kind: Any, error: BaseException | None, tb: TracebackType | None) -> Literal[False]:
        try:
            if self._run is not None and self._run.sharing is not None:
                await self._run.sharing.alearn()
        except BaseException as stopped:  # cancelled, and so is what was to be raised
            self.__exit__(type(stopped), stopped, stopped.__traceback__)
            raise
        return self.__exit__(kind, error, tb)

    def __call__(self, function: F) -> F:
        """Open a run for each call of *function*: plain, async, generator or async generator."""
        self.used = True
        return decorator.decorate(self, function)

    def copy(self) -> RunScope:
        """The same run, not entered yet."""
        twin = copy(self)
        twin._run = twin._token = None
        return twin


def _check_spelling(budget: object, options: Mapping[str, Any]) -> None:
    """TypeError that says what to write, if *budget* is a function or one of *options* is none."""
    if inspect.isroutine(budget):
        raise TypeError("a decorator needs its parentheses: write `@otelbudget.run()`")
    for name in options:
        if name in _LIMITS:
            raise TypeError(f"run() has no {name!r}, a budget has: run(RunBudget({name}=...))")
        if name not in RunOptions.__annotations__:
            raise unknown("run() has no", name, (*RunOptions.__annotations__, *_LIMITS))


def _names(options: RunOptions) -> Names:
    """Whose run *options* say it is."""
    priority = options.get("priority")
    if priority is not None:
        check_priority(priority)
    given: Mapping[str, Any] = options
    names = {name: given.get(name) for name in ("org", "tenant", "user", "conversation")}
    for name, value in names.items():
        if value is not None and not isinstance(value, str):
            raise TypeError(f"{name} must be text, got {value!r} ({type(value).__name__})")
        if value == "":
            raise ValueError(f"{name} must be a name or None, got ''")
    return Names(**names, tags=tags_of(options.get("tags")), priority=priority)


def _check_owner(given: Owner, who: Names) -> None:
    for name, wanted, there in zip(("org", "tenant", "user"), who, given.names, strict=False):
        if wanted is not None and wanted != there:
            raise ValueError(
                f"a run inside a run of {name} {there!r} is part of it and can't be {name} {wanted!r}'s:"
                f" pass mode='detached' for an independent run"
            )
