"""How the research agent pays for a model call: through the guard after `otelbudget.setup()`, else by itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context

from otelbudget.engine.scope import active_engine
from otelbudget.estimate.tokens import count_input
from otelbudget.model.budget import Usage

if TYPE_CHECKING:
    from otelbudget.runs.run import BudgetRun

__all__ = ["DEMO_PRICES", "paid_call"]

#: USD per million input and output tokens of the models that the demo server plays.
DEMO_PRICES: Final = {"demo-small": (Decimal("0.15"), Decimal("0.60")), "demo-large": (Decimal("2.50"), Decimal("10"))}
_MILLION: Final = 1_000_000


@contextlib.contextmanager
def paid_call(run: BudgetRun, body: Mapping[str, Any]) -> Iterator[Callable[[Any], object]]:
    """A chat completion with *body*, as a block; what it gives is to be called with the response.

    Where a guard sees every call of the client, this does nothing. Elsewhere it reserves before and commits after, the
    way any code can that has no guard.

    Raises:
        BudgetExceeded: The run can't pay for it.
    """
    engine = active_engine()
    if engine is not None and "openai" in engine.guarded:
        yield lambda _: None
        return
    model, output_tokens = str(body["model"]), int(body["max_completion_tokens"])
    held: dict[str, Any] = {"input_tokens": count_input(body), "output_tokens": output_tokens}
    cost = _cost(model, **held)
    with (
        run.reserve(steps=1, on_unknown="input", **held, **({} if cost is None else {"cost_usd": cost})) as reservation,
        _out_of_the_run(),
    ):
        yield lambda response: reservation.commit(_usage(model, response))


def _usage(model: str, response: Any) -> Usage | None:
    """What *response* says was used; None, which charges the hold, if it says nothing."""
    said = response.usage
    if said is None:
        return None
    tokens = {"input_tokens": said.prompt_tokens, "output_tokens": said.completion_tokens}
    return Usage(**tokens, cost_usd=_cost(model, **tokens), model=model, provider="openai", response_id=response.id)


def _cost(model: str, input_tokens: int, output_tokens: int) -> Decimal | None:
    """The price of a call of a demo model; other models are priced by otelbudget."""
    if model not in DEMO_PRICES:
        return None
    per_input, per_output = DEMO_PRICES[model]
    return (per_input * input_tokens + per_output * output_tokens) / _MILLION


@contextlib.contextmanager
def _out_of_the_run() -> Iterator[None]:
    """A context with the trace and nothing else in it, and quiet instrumentors as far as they listen to that.

    A `BudgetManager` that hears of an instrumentor's span charges the run it finds there, and this one has paid.
    """
    context = trace.set_span_in_context(trace.get_current_span(), Context())
    key = getattr(otel_context, "_SUPPRESS_INSTRUMENTATION_KEY", None)
    token = otel_context.attach(context if key is None else otel_context.set_value(key, True, context))
    try:
        yield
    finally:
        otel_context.detach(token)
