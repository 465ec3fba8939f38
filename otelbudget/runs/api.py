"""The functions that work without a manager in hand: `run`, `resume`, `continue_run`, `current_run`, `wrap`."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, cast

from opentelemetry.context import get_current

from otelbudget.engine import context as contexts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from otelbudget.model.budget import OnExhausted, RunBudget
    from otelbudget.runs.continuing import ContinueOptions, Headers
    from otelbudget.runs.run import BudgetRun
    from otelbudget.runs.scope import RunOptions, RunScope

F = TypeVar("F", bound="Callable[..., Any]")


def current_run() -> BudgetRun | None:
    """The run that a call made here would be charged to; None outside every run.

    An explicit `otelbudget.run()` wins; else the implicit run of the enclosing agent span or unit of work.
    """
    from otelbudget.runs.run import BudgetRun

    found = contexts.run_here()
    return None if found is None else BudgetRun(found)


def run(budget: str | RunBudget | None = None, **options: Unpack[RunOptions]) -> RunScope:
    """Open a run: ``with``, ``async with``, or a decorator that opens one per call.

    Before `otelbudget.setup()` it runs on a default manager in this process's memory, without telemetry set up.
    A decorator goes by what is set up, and what is configured, as its function is called.

    Example:
        >>> from otelbudget import RunBudget
        >>> with run(RunBudget(max_steps=2), tenant="acme") as r:
        ...     r.record_call(100)
        ...     r.remaining()["steps"]
        1

    Args:
        budget: A name from budgets.yaml, a RunBudget, or None for the default budget.
        org, tenant, user: Whose it is; inside another run, or a request whose tenant ``tenant_from`` finds, the same or
            None. Else None takes the tenant of ``setup()``, or ``default``, and its configured organisation. Inside an
            agent's span whose tenant is only that default, a run of another tenant is as with ``mode="detached"``.
        conversation: For quotas of conversations; None takes that of the run around it, or of the agent's span
            (``gen_ai.conversation.id``).
        tags: ``{"team": "search"}``, at most 8, that quotas can be given to; those of the run around it are kept.
        priority: ``low``, ``normal`` (the default) or ``high``: how much of quotas that keep shares it may use.
        mode: Inside another run, ``shared`` charges that one too, ``carve`` also keeps *carve* of it for this run while
            it is open, ``detached`` is independent of it.
        carve: ``{resource: amount}``, or a share from 0 to 1 of what is left there; None takes the limits of *budget*.
        reraise: Raise a pending denial when the block is left, should something have swallowed it.
        shared: Let other processes work on it with `continue_run`: it is counted in the store that they share, its
            limits are what they are here, its time is the store's. It ends for all when it is left here, and after a
            week at the latest; if this process dies, it goes on. Requests made in it carry its id, tenant and user in
            their baggage, wherever they go.

    Raises:
        ConfigError: No budget has that name.
        StoreError: It is to be shared, and the store can't be reached.
        ValueError: Another organisation, tenant or user inside a run that is shared, another organisation or tenant
            inside a request, or an unknown priority or mode.
    """
    from otelbudget.runs.scope import RunScope

    return RunScope(_engine, budget, **options)


def resume(state: Mapping[str, Any], *, on_exhausted: OnExhausted | None = None, reraise: bool = True) -> RunScope:
    """Go on with a run that `BudgetRun.export_state` has paused, as a block like that of `run`.

    It is a root run with the same id, owner and limits that has used what it had used; the time between does not count,
    denials and idempotency keys stayed behind. Resumed in two processes, both spend what is left.

    Args:
        state: What `export_state` gave, also after a trip through JSON.
        on_exhausted: Replaces that of its budget; has to be given if that was a function.
        reraise: As for `run`.

    Raises:
        ConfigError: It is no such state; the message names the field.
        BudgetError: On entering, if that run is open in this process.
    """
    from otelbudget.runs import continuing

    return continuing.resumed(_engine(), state, on_exhausted, reraise=reraise)


def continue_run(headers_or_id: str | Headers, **options: Unpack[ContinueOptions]) -> RunScope:
    """Work on a run that another process has opened with ``shared=True``, as a block like that of `run`.

    It is one run with one budget: what this process does in it counts with what all others do. Leaving it ends nothing,
    and what it comes to is told where it was opened.

    Args:
        headers_or_id: Its id (``run.run_id``); or the headers of a request that was made in it, where the
            configuration says ``inbound: {run: true}``.
        tenant, org: Whose it is, where neither the headers nor the configuration say so.
        on_exhausted: As in a `RunBudget`; None takes that of its budget, and raises if that is a function.
        reraise: As for `run`.

    Raises:
        ConfigError: It is no id, or headers that name no run or are not to be believed.
        BudgetError: On entering: no store is shared, it has no such run, or the run is another tenant's.
        BudgetExceeded: On entering: the run has ended.
        StoreError: On entering: the store can't be reached.
    """
    from otelbudget.runs import continuing

    return continuing.continued(_engine(), headers_or_id, options)


def _engine() -> Any:
    from otelbudget.runs import run  # noqa: F401 - what users hold of a run

    engine = contexts.active_engine()
    if engine is None:
        from otelbudget.config import Config
        from otelbudget.engine.engine import Engine

        # Not a whole manager, which is a span processor: this works where only OpenTelemetry's API is installed.
        engine = contexts.activate_default(lambda: Engine(Config()))
    return engine


def wrap(function: F) -> F:
    """*function* bound to the context of here, so that a plain thread, pool or task runs it in this run."""
    context = get_current()

    @functools.wraps(function)
    def bound(*args: Any, **kwargs: Any) -> Any:
        with contexts.attached(context):
            return function(*args, **kwargs)

    @functools.wraps(function)
    async def abound(*args: Any, **kwargs: Any) -> Any:
        with contexts.attached(context):
            return await function(*args, **kwargs)

    return cast("F", abound if inspect.iscoroutinefunction(function) else bound)
