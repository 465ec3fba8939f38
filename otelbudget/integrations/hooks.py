"""What the hooks of agent frameworks share: a tool call, an agent's span, and what a denial says to a model."""

from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.context import get_current

from otelbudget.engine import context as contexts
from otelbudget.runs import ambient
from otelbudget.runs.tool_call import ToolCall, enclosing
from otelbudget.spans.tree import within

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.trace import Span

    from otelbudget.admission.state import RunState
    from otelbudget.errors import BudgetExceeded


def run_here() -> RunState | None:
    """The run that a call made here is charged to, also outside every run; None where nothing is set up."""
    run: RunState | None = contexts.run_here()
    engine = contexts.active_engine()
    return run if run is not None or engine is None else ambient.outside(engine)


def tool_call(
    name: str,
    call_id: str | None = None,
    *,
    any_name: bool = False,
    pauses: tuple[type[BaseException], ...] | None = None,
) -> ToolCall | nullcontext[None]:
    """A tool call of the run of here as a block, as `BudgetRun.tool_call` gives it, also outside every run.

    Where the tool itself is inside, an instrumentation may show it under *any_name*. Where the framework ends it with
    one of *pauses* to make it again later, perhaps in another run, it isn't charged.
    """
    run = run_here()
    if run is None:
        return nullcontext()
    return ToolCall(run, name, call_id or None, from_hook=True, any_name=any_name, pauses=pauses)


def holding(framework: str) -> AbstractContextManager[None]:
    """A block in which a hook holds the tool calls of *framework*: spans that show them are left to it.

    A span may begin before it is known whether the tool runs, or who has to be asked first.
    """
    return contexts.attached(contexts.HOOKED.put(get_current(), framework))


def is_holding(framework: str) -> bool:
    """Whether this is inside of `holding` it."""
    return bool(framework) and contexts.HOOKED.of(get_current()) == framework


def renamed() -> None:
    """Let the tool call of here go on under another name, under which the next layer shows it."""
    run = run_here()
    if run is not None and run.engine.spans is not None:
        here = get_current()
        call = enclosing(here, run, run.engine.spans.tree.around(here, exact=True))
        if call is not None:
            call.any_name = True


def agent_span(name: str | None, shown: Span | None = None) -> Span | None:
    """The span of a piece of work of the agent *name*, to which its budget and quotas belong.

    None where there is nothing to tell, or an instrumentation has opened it: *shown*, if that says no name yet.
    """
    engine = contexts.active_engine()
    if engine is None or engine.spans is None or not name or engine.spans.agent_here(get_current())[0] == name:
        return None
    if shown is not None and engine.spans.named(shown, name):
        return None
    made: Span = engine.spans.agent(name)
    return made


@contextmanager
def agent(name: str | None) -> Iterator[None]:
    """A piece of work of the agent *name*, as a block."""
    span = agent_span(name)
    if span is None:
        yield
    else:
        with trace.use_span(span, end_on_exit=True), inside(span):
            yield


def known(name: str) -> bool:
    """Whether the configuration has a budget or quotas for an agent of this *name*."""
    engine = contexts.active_engine()
    return engine is not None and (name in engine.config.agents or bool(engine.config.quotas.found("agents", name)[1]))


def inside(span: Span | None) -> AbstractContextManager[None]:
    """A block in the context of *span*, which stays open."""
    return nullcontext() if span is None else contexts.attached(within(span))


def acknowledge(told: BudgetExceeded | None = None) -> None:
    """Say that what refused calls here has been dealt with, or only what *told* tells of: leaving the run, or one
    around it, is quiet."""
    run = run_here()
    resource = None if told is None else told.resource
    reasons = () if told is None or resource is not None else (told.reason,)
    for one in () if run is None else run.lineage:
        one.engine.ledger.locked(partial(one.forget, resource, reasons=reasons))


def ended(denial: BudgetExceeded) -> str:
    """What an agent says that ends with *denial*, to who reads its answer."""
    return f"Stopped before the answer was complete: {_short(denial)}."


def not_run(denial: BudgetExceeded) -> str:
    """What the result of a refused tool says, to the model that asked for it."""
    return f"Not run: {_short(denial)}. Do without it, and answer with what you have."


def _short(denial: BudgetExceeded) -> str:
    """Who refused and why, without the advice to developers."""
    return str(denial).partition(". ")[0].rstrip(".")
