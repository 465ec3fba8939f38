"""How the research agent pays for a model call: through the guard after `otelbudget.setup()`, else by itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context

from otelbudget.engine.context import active_engine, attached
from otelbudget.estimate.tokens import count_input
from otelbudget.model.usage import Usage

if TYPE_CHECKING:
    from otelbudget.runs.run import BudgetRun

#: USD per million input and output tokens of the models that the demo server plays.
DEMO_PRICES: Final = {"demo-small": (Decimal("0.15"), Decimal("0.60")), "demo-large": (Decimal("2.50"), Decimal("10"))}


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
    model: str = body["model"]
    held = {"input_tokens": count_input(body), "output_tokens": body["max_completion_tokens"]}
    held |= _cost(model, **held)
    with run.reserve(steps=1, on_unknown="input", **held) as reservation, attached(_outside()):
        yield lambda response: reservation.commit(_usage(model, response))


def _usage(model: str, response: Any) -> Usage | None:
    """What *response* says was used; None, which charges the hold, if it says nothing."""
    said = response.usage
    if said is None:
        return None
    tokens = {"input_tokens": said.prompt_tokens, "output_tokens": said.completion_tokens}
    return Usage(**tokens, **_cost(model, **tokens), model=model, provider="openai", response_id=response.id)


def _cost(model: str, input_tokens: int, output_tokens: int) -> dict[str, Any]:
    """The price of a call of a demo model, as ``cost_usd``; other models are priced by otelbudget."""
    if model not in DEMO_PRICES:
        return {}
    per_input, per_output = DEMO_PRICES[model]
    return {"cost_usd": (per_input * input_tokens + per_output * output_tokens) / 1_000_000}


def _outside() -> Context:
    """A context with the trace and nothing else in it, and quiet instrumentors as far as they listen to that.

    A `BudgetManager` that hears of an instrumentor's span charges the run it finds there, and this one has paid.
    """
    context = trace.set_span_in_context(trace.get_current_span(), Context())
    return otel_context.set_value(otel_context._SUPPRESS_INSTRUMENTATION_KEY, True, context)
