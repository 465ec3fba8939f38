"""What leaving a run does: the run ends, and a denial that nobody has dealt with is raised where the rules say so."""

from __future__ import annotations

import asyncio
import contextlib
from copy import copy
from typing import TYPE_CHECKING

from opentelemetry.trace import Status, StatusCode

from otelbudget import semconv
from otelbudget.admission import closing
from otelbudget.errors import BudgetExceeded, found_in
from otelbudget.telemetry.events import type_name

if TYPE_CHECKING:
    from otelbudget.admission.state import RunState

__all__ = ["leave"]

#: Exceptions that steer the program and pass a run unchanged, whatever is pending.
_STEERING = (asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit)


def leave(run: RunState, error: BaseException | None) -> None:
    """End *run*; raises its pending denial where the rules say so.

    No exception: the first pending denial. BudgetExceeded, or what steers the program: nothing, it goes on unchanged.
    Another exception that a denial caused: BudgetExceeded from it. Any other: a note is added.
    """
    if run.sharing is not None:
        run.sharing.learn()
    pending = run.first_pending() if run.reraise else None
    kind = type(error)  # and not what the application's class says it is: that may raise
    exceeded = issubclass(kind, BudgetExceeded)
    steering = issubclass(kind, _STEERING) or (
        issubclass(kind, BaseExceptionGroup) and not issubclass(kind, Exception)  # such a one is in there
    )
    cause = None if exceeded or steering else found_in(error)
    exhausted = run.outcome == "exhausted" or exceeded or cause is not None
    _describe_end(run, pending if error is None else error)
    closing.close(run, "exhausted" if exhausted else "completed" if error is None else "error")
    if run.sharing is not None:
        run.sharing.close()
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


def _describe_end(run: RunState, error: BaseException | None) -> None:
    """Status ERROR and its type on the run's span, if it is left by an error; steering the program is none."""
    span = run.span
    if span is None or error is None or not issubclass(type(error), Exception) or not span.is_recording():
        return
    span.set_attribute(semconv.ERROR_TYPE, type_name(error))
    what = str(error) if issubclass(type(error), BudgetExceeded) else type_name(error)
    span.set_status(Status(StatusCode.ERROR, what))
