"""The functions that work without a manager in hand: `run`, `resume`, `current_run`, `wrap`."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, cast

from opentelemetry.context import get_current

from otelbudget.engine import context as contexts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from otelbudget.engine.engine import Engine
    from otelbudget.model.budget import OnExhausted, RunBudget
    from otelbudget.runs.run import BudgetRun
    from otelbudget.runs.scope import RunOptions, RunScope

__all__ = ["current_run", "paused_scope", "resume", "run", "wrap"]

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

    Raises:
        ConfigError: No budget has that name.
        ValueError: Another organisation, tenant or user inside a run that is shared, another organisation or tenant
            inside a request, or an unknown priority or mode.
    """
    from otelbudget.runs.run import BudgetRun
    from otelbudget.runs.scope import RunScope

    return RunScope(BudgetRun, _engine(), budget, **options)


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
    return paused_scope(_engine(), state, on_exhausted, reraise=reraise)


def paused_scope(
    engine: Engine, state: Mapping[str, Any], on_exhausted: OnExhausted | None, *, reraise: bool
) -> RunScope:
    """`resume` on *engine*."""
    from otelbudget.runs.resume import read
    from otelbudget.runs.run import BudgetRun
    from otelbudget.runs.scope import RunScope

    budget = read(state, on_exhausted)
    return RunScope(BudgetRun, engine, budget, resumed=dict(state), reraise=reraise)


def _engine() -> Any:
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
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def abound(*args: Any, **kwargs: Any) -> Any:
            with contexts.attached(context):
                return await function(*args, **kwargs)

        return cast("F", abound)

    @functools.wraps(function)
    def bound(*args: Any, **kwargs: Any) -> Any:
        with contexts.attached(context):
            return function(*args, **kwargs)

    return cast("F", bound)
