"""The functions that work without a manager in hand: `run`, `resume`, `current_run`, `wrap`."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, TypeVar, cast

from opentelemetry import context as otel_context

from otelbudget.engine import scope
from otelbudget.engine.scope import current_run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from otelbudget.engine.engine import Engine
    from otelbudget.model.budget import OnExhausted, RunBudget
    from otelbudget.runs.child import Carve
    from otelbudget.runs.scope import Mode, RunScope

__all__ = ["current_run", "paused_scope", "resume", "run", "wrap"]

F = TypeVar("F", bound="Callable[..., Any]")


def run(
    budget: str | RunBudget | None = None,
    *,
    org: str | None = None,
    tenant: str | None = None,
    user: str | None = None,
    priority: str | None = None,
    mode: Mode = "shared",
    carve: Carve | None = None,
    reraise: bool = True,
) -> RunScope:
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
        org, tenant, user: Whose it is; inside another run, or a request whose tenant ``tenant_from`` finds, it must be
            the same, or left out. None takes the tenant of ``setup()``, else ``default``, and the tenant's organisation
            by the configuration, else ``default``. In an agent's span that is a tenant's by that default only, a run of
            another tenant is independent of the agent's: as with ``mode="detached"``.
        priority: ``low``, ``normal`` (the default) or ``high``: how much of quotas that keep shares it may use.
        mode: Inside another run, ``shared`` charges that one too, ``carve`` also keeps *carve* of it for this run while
            it is open, ``detached`` is independent of it.
        carve: ``{resource: amount}``, or the share of what the run around it has left; None takes the limits of
            *budget*.
        reraise: Raise a pending denial when the block is left, should something have swallowed it.

    Raises:
        ConfigError: No budget has that name.
        ValueError: Another organisation, tenant or user inside a run that is shared, another organisation or tenant
            inside a request, or an unknown priority or mode.
    """
    from otelbudget.runs.scope import RunScope

    return RunScope(
        _engine(),
        budget,
        org=org,
        tenant=tenant,
        user=user,
        priority=priority,
        mode=mode,
        carve=carve,
        reraise=reraise,
    )


def resume(state: Mapping[str, Any], *, on_exhausted: OnExhausted | None = None, reraise: bool = True) -> RunScope:
    """Go on with a run that `BudgetRun.export_state` has paused, as a block like that of `run`.

    It has the same id, owner and limits, has used what it had used, and the time between does not count; denials and
    idempotency keys stayed with the run that was left. It is a run of its own wherever it is resumed. A state is a
    value: who resumes it in two processes lets both spend what is left.

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
    engine: Engine, state: Mapping[str, Any], on_exhausted: OnExhausted | None, **options: Any
) -> RunScope:
    """`resume` on *engine*."""
    from otelbudget.runs.resume import read
    from otelbudget.runs.scope import RunScope

    budget = read(state, on_exhausted)
    return RunScope(engine, budget, resumed=dict(state), **options)


def _engine() -> Any:
    engine = scope.active_engine()
    if engine is None:
        from otelbudget.config import Config
        from otelbudget.engine.engine import Engine

        # Not a whole manager, which is a span processor: this works where only OpenTelemetry's API is installed.
        engine = scope.activate_default(lambda: Engine(Config()))
    return engine


def wrap(function: F) -> F:
    """*function* bound to the context of here, so that a plain thread, pool or task runs it in this run."""
    context = otel_context.get_current()
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def abound(*args: Any, **kwargs: Any) -> Any:
            token = otel_context.attach(context)
            try:
                return await function(*args, **kwargs)
            finally:
                otel_context.detach(token)

        return cast("F", abound)

    @functools.wraps(function)
    def bound(*args: Any, **kwargs: Any) -> Any:
        token = otel_context.attach(context)
        try:
            return function(*args, **kwargs)
        finally:
            otel_context.detach(token)

    return cast("F", bound)
