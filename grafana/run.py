"""The Run board: one run, live while it goes on, and all of its history from its trace."""

from __future__ import annotations

from blocks import TEMPO, Json, found, query, stat, timeseries, trace, traces
from frame import dashboard, text_variable

OWN = 'run_id="$run"'
SPANS = 'span.otelbudget.run.id = "$run"'


def _show(trace_id: str) -> Json:
    """From the id of a trace, or of a span, to the trace further down: viewers may not open Explore."""
    url = f"/d/otelbudget-run?var-run=${{run}}&var-trace={trace_id}&${{__url_time_range}}"
    return {"title": "Show this trace", "url": url}


_OF_SPANS = {"spanID": _show("${__data.fields.traceIdHidden}")}
_OF_TRACES = {"traceID": _show("${__value.raw}")}
_ENDED = "ended, or too young: see its trace"


def run() -> Json:
    """The whole board."""
    return dashboard(
        "Run",
        "One run, by its id: how it ended, its limits and what it used of them, its calls, its refusals, its trace.",
        [
            (3, [(12, panel) for panel in _live()]),
            (6, [(24, _outcome())]),
            (8, [(12, _cost()), (12, _refusals())]),
            (8, [(12, _tools()), (12, _thresholds())]),
            (6, [(24, _traces())]),
            (14, [(24, trace("The trace", "All spans of the trace chosen above.", "$trace"))]),
        ],
        [text_variable("run", "Run id"), text_variable("trace", "Trace id")],
        since="now-6h",
    )


def _live() -> list[Json]:
    return [
        stat(
            "Cost so far",
            "Only while it goes on, and among the twenty runs closest to their limits.",
            query(f"max(otelbudget_active_run_cost_usd{{{OWN}}})"),
            unit="currencyUSD",
            no_value=_ENDED,
        ),
        stat(
            "Nearest limit",
            "The greatest used share of any of its limits, while it goes on.",
            query(f"max(otelbudget_active_run_used_ratio{{{OWN}}})"),
            unit="percentunit",
            decimals=0,
            no_value=_ENDED,
            loud_from=0.95,
        ),
    ]


def _outcome() -> Json:
    resources = ("steps", "tokens", "cost_usd", "tool_calls", "seconds")
    amounts = [f"span.otelbudget.{kind}.{name}" for name in resources for kind in ("used", "limit")]
    wanted = ", ".join(("span.otelbudget.tenant", "span.otelbudget.outcome", "span.otelbudget.reason", *amounts))
    return found(
        "How did it end, and what did it use of its limits?",
        "Its run span; what has no limit is empty. A span can be found about half a minute after it ended.",
        f'{{ name =~ "otelbudget.run.*" && {SPANS} }} | select({wanted})',
        _OF_SPANS,
        spans=True,
    )


def _cost() -> Json:
    spent = f"{{ {SPANS} && span.otelbudget.cost.usd > 0.0 }}"
    by_model = f"{spent} | sum_over_time(span.otelbudget.cost.usd) by (span.gen_ai.request.model)"
    panel = timeseries(
        "What did its calls cost?",
        "Money by model, when it was spent.",
        [traces(by_model)],
        unit="currencyUSD",
        style="bars",
        stacked=True,
    )
    return panel | {"datasource": TEMPO}


def _refusals() -> Json:
    wanted = "span.otelbudget.reason, span.otelbudget.budget, span.otelbudget.resource, span.otelbudget.scope"
    return found(
        "What was it refused?",
        "Calls that were refused, by which budget and for want of what.",
        f'{{ {SPANS} && span.otelbudget.decision = "deny" }} | select({wanted})',
        _OF_SPANS,
        spans=True,
    )


def _tools() -> Json:
    wanted = "event.gen_ai.tool.name, event.otelbudget.decision"
    return found(
        "Which tools did it call?",
        "Checks of tool calls, with the tool's name and the decision.",
        f"{{ {SPANS} && event.gen_ai.tool.name != nil }} | select({wanted})",
        _OF_SPANS,
        spans=True,
    )


def _thresholds() -> Json:
    wanted = "event.otelbudget.budget, event.otelbudget.resource, event.otelbudget.ratio"
    return found(
        "Which thresholds did it cross?",
        "Shares of a limit that were reached in this run, of its budget or of a quota.",
        f'{{ {SPANS} && event:name = "otelbudget.threshold" }} | select({wanted})',
        _OF_SPANS,
        spans=True,
    )


def _traces() -> Json:
    return found("Which traces is it in?", "An id shows that trace below.", f"{{ {SPANS} }}", _OF_TRACES)
