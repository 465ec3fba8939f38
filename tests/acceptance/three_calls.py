"""A program of its own: three calls under a budget of two steps, set up as the arguments say; prints what came of it.

    python three_calls.py INSTRUMENTOR ORDER SAMPLER

INSTRUMENTOR is none, official, openinference, openllmetry or logfire; ORDER is before or after (`setup()`); SAMPLER is
always_on, always_off or disabled.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

instrumentor, order, sampler = sys.argv[1:4]
if sampler == "disabled":
    os.environ["OTEL_SDK_DISABLED"] = "true"
else:
    os.environ["OTEL_TRACES_SAMPLER"] = sampler

import openai  # noqa: E402 - after the environment
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: E402
from prometheus_client import CollectorRegistry  # noqa: E402
from provider import Provider, Reply  # noqa: E402

import otelbudget  # noqa: E402
from otelbudget import BudgetExceeded, RunBudget  # noqa: E402


def instrument() -> None:
    """Switch the chosen instrumentor on."""
    if instrumentor == "official":
        from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor

        OpenAIInstrumentor().instrument()
    elif instrumentor == "openinference":
        from openinference.instrumentation.openai import OpenAIInstrumentor as OpenInference

        OpenInference().instrument()
    elif instrumentor == "openllmetry":
        from opentelemetry.instrumentation.openai import OpenAIInstrumentor as OpenLLMetry

        OpenLLMetry().instrument()
    elif instrumentor == "logfire":
        import logfire

        if order == "before":
            logfire.configure(send_to_logfire=False, console=False)
        logfire.instrument_openai()


def shown(span: Any) -> dict[str, Any]:
    """What a test looks at of a span."""
    return {
        "name": span.name,
        "scope": span.instrumentation_scope.name,
        "status": span.status.status_code.name,
        "attributes": {k: v for k, v in span.attributes.items() if isinstance(v, str | int | float | bool)},
        "events": [{"name": e.name, "attributes": dict(e.attributes)} for e in span.events if "otelbudget" in e.name],
    }


def counters(registry: CollectorRegistry) -> dict[str, float]:
    """The samples that a scrape sees, by name and labels, without histograms."""
    return {
        f"{sample.name}{{{','.join(f'{k}={v}' for k, v in sorted(sample.labels.items()))}}}": sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name.startswith("otelbudget") and not sample.name.endswith(("_bucket", "_created")) and sample.value
    }


def main() -> None:
    """Make the calls and print the outcome as JSON."""
    exporter, registry = InMemorySpanExporter(), CollectorRegistry()
    server = Provider()
    for _ in range(3):
        server.enqueue(Reply(text="Yes.", input_tokens=100, output_tokens=50))
    if order == "before":
        instrument()
    otelbudget.setup(
        RunBudget(max_steps=100),
        exporter=exporter,
        registry=registry,
        metrics_port=None,
        instrument=False,
        strict=True,
    )
    if order == "after":
        instrument()
    client = openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0)
    outcome: dict[str, Any] = {"refused": None, "answers": 0, "escaped": None}
    try:
        with otelbudget.run(RunBudget(max_steps=2, name="two"), tenant="acme") as run:
            try:
                for _ in range(3):
                    client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Is it?"}])
                    outcome["answers"] += 1
            except BudgetExceeded as error:
                outcome["refused"] = [error.reason, error.resource]
                run.acknowledge()
            outcome["used"] = {k: float(v) for k, v in run.receipt().used.items()}
    except BaseException as error:
        outcome["escaped"] = repr(error)
        raise
    finally:
        outcome["counters"] = counters(registry)
        otelbudget.shutdown()
        outcome["requests"] = server.requests
        server.close()
    outcome["spans"] = [shown(span) for span in exporter.get_finished_spans()]
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
