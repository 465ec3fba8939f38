"""On the demo's traffic holds cover what calls cost, and are not much more."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import pytest
from provider import Provider

import otelbudget
from otelbudget import load_budget_config
from otelbudget.calls.model_call import ModelCall
from otelbudget.demo.load import BUDGETS, Load, jobs
from otelbudget.model.amounts import COST
from otelbudget.model.usage import Usage
from otelbudget.pricing.rates import Parts


def _held_and_cost(hold: str, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Nano-USD of each call of many rounds of the demo, so that the few first answers of a model, which teach how long
    its answers are, are not what is measured."""
    config = load_budget_config(BUDGETS)
    config = dataclasses.replace(config, estimates=dataclasses.replace(config.estimates, hold=hold))
    seen: list[tuple[int, int]] = []
    commit: Callable[[ModelCall, Usage | None], None] = ModelCall.commit

    def watched(call: ModelCall, usage: Usage | None = None) -> None:
        price = call.run.engine.prices.known(call.request.model, call.request.provider)
        assert usage is not None
        assert price is not None
        seen.append((call._hold.amounts[COST], price.cost(Parts(usage.input_tokens or 0, usage.output_tokens or 0))))
        commit(call, usage)

    monkeypatch.setattr(ModelCall, "commit", watched)
    otelbudget.setup(config, metrics_port=None, exporter="none", instrument=False)
    try:
        with Provider() as server:
            for _ in range(20):
                load = Load(jobs(8, config), server.base_url)
                load.start()
                until = time.monotonic() + 60
                while load.working and time.monotonic() < until:
                    time.sleep(0.05)
                assert not load.working
    finally:
        otelbudget.shutdown()
    assert len(seen) > 600
    return seen


# Its agents allow themselves 400 tokens of output and take 60: a hard hold is dearer than what answers come to.
@pytest.mark.slow
@pytest.mark.parametrize(("hold", "covered", "most"), [("max", 0.99, 2.0), ("expected", 0.99, 1.5)])
def test_holds_cover_the_cost_of_calls(hold: str, covered: float, most: float, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _held_and_cost(hold, monkeypatch)
    assert sum(held >= cost for held, cost in seen) / len(seen) >= covered
    assert sum(held for held, _ in seen) / sum(cost for _, cost in seen) <= most
