"""The ambient run: the process-wide run of calls made outside every run; opened at first use."""

from __future__ import annotations

import asyncio
import threading
from weakref import ref

from otelbudget import forking
from otelbudget.admission import closing
from otelbudget.admission.state import RunState
from otelbudget.engine.engine import Engine
from otelbudget.engine.owner import NOBODY

_opening = forking.fresh_lock()


def outside(engine: Engine) -> RunState:
    """The process-wide run, for a call made outside every run; that may be a mistake worth a warning."""
    if engine.explicit_runs:
        engine.warn_once(
            "outside",
            "a model call was made outside every run while runs are open in this process: its context was lost"
            " (a thread or pool made before setup()?), so it is charged to the process-wide run",
        )
    return ambient_run(engine)


def ambient_run(engine: Engine) -> RunState:
    """The process-wide run of *engine*."""
    run: RunState | None = engine.ambient
    if run is None:
        with _opening:
            run = engine.ambient
            if run is None:
                owner = engine.directory.owner(NOBODY)
                run = RunState(engine, engine.budget(None), owner, kind="ambient", reraise=False)
                run.enlist()
                engine.ambient = run
    if "ambient" not in engine.warned:
        _watch(engine)
    return run


def reset_ambient(engine: Engine) -> None:
    """Let the next call outside every run begin a new process-wide run."""
    with _opening:
        run, engine.ambient, engine.ambient_user = engine.ambient, None, None
    if run is not None:
        closing.close(run, run.outcome)


def _watch(engine: Engine) -> None:
    """Warn once as soon as a second thread or task uses it."""
    try:
        user: object = asyncio.current_task()
    except RuntimeError:
        user = None
    # A weak reference: the process-wide run must not keep a task alive, nor take a new one at its address for it.
    user = threading.get_ident() if user is None else ref(user)
    if engine.ambient_user is None:
        engine.ambient_user = user
    elif engine.ambient_user != user:
        engine.warn_once(
            "ambient",
            "calls of several threads or tasks share the process-wide run, since they are made outside every run; "
            "open one per request or job with `with otelbudget.run(...):`",
        )
