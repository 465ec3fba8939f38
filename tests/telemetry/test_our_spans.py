"""A span processor of the application that fails on our spans changes no decision and replaces no exception."""

from __future__ import annotations

import logging

import pytest
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

from otelbudget import BudgetExceeded, BudgetManager, RunBudget


class Broken(SpanProcessor):
    def __init__(self, moment: str) -> None:
        self._moment = moment

    def on_start(self, span: object, parent_context: object = None) -> None:
        if self._moment == "start":
            raise RuntimeError("broken")

    def on_end(self, span: ReadableSpan) -> None:
        if self._moment == "end":
            raise RuntimeError("broken")


@pytest.mark.parametrize("moment", ["start", "end"])
def test_a_run_counts_refuses_and_raises_its_denial_all_the_same(moment: str, caplog: pytest.LogCaptureFixture) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Broken(moment))
    manager = BudgetManager()
    manager.engine.tracer = provider.get_tracer("otelbudget")
    scope = manager.run(RunBudget(max_steps=1))
    with caplog.at_level(logging.ERROR):
        run = scope.__enter__()
        run.record_call(5)
        with pytest.raises(BudgetExceeded):
            run.check()
        with pytest.raises(BudgetExceeded, match="steps used 1 of 1"):
            scope.__exit__(None, None, None)
    assert run.usage.tokens == 5
    assert manager.engine.meters.snapshot().active_runs == []
    assert "a span processor failed while" in caplog.text
