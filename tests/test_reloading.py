"""A manager's configuration is replaced while it runs; a wrong one never is, and runs in progress keep their limits."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from world import PRICES, World

from otelbudget import BudgetExceeded, BudgetManager, Config, ConfigError, Quota, RunBudget, Usage, current_run
from otelbudget.config import TelemetryConfig, TenantFrom
from otelbudget.model.quota import Quotas
from otelbudget.pricing import Price, Prices

ONE = "budgets: {quick: {max_steps: 1}}\nquotas: {default: [{tokens: 100}]}\n"
TWO = "budgets: {quick: {max_steps: 2}}\nquotas: {default: [{tokens: 50}]}\n"
AGENT = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "a"}
WRONG = "budgets: {quick: {max_step: 2}}\nquotas: {default: 5}\n"


def limits(manager: BudgetManager) -> tuple[int | None, Any]:
    with manager.run("quick", tenant="acme", reraise=False) as run:
        return run.budget.max_steps, run.remaining()["tokens"]


def test_a_file_is_read_again_and_a_wrong_one_is_not_applied(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "budgets.yaml"
    path.write_text(ONE)
    manager = BudgetManager(path)
    assert (limits(manager), manager.engine.meters.reload_ok) == ((1, 100), None)
    path.write_text(WRONG)
    assert not manager.reload()
    assert (limits(manager), manager.engine.meters.reload_ok) == ((1, 100), False)
    (error,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    for said in ("the last good one stays in force", f"{path}:1:", "did you mean 'max_steps'", f"{path}:2:"):
        assert said in error.getMessage()
    path.write_text(TWO)
    assert manager.reload()
    assert (limits(manager), manager.engine.meters.reload_ok) == ((2, 50), True)
    path.unlink()
    assert not manager.reload()
    assert limits(manager) == (2, 50)


def test_the_same_file_is_found_from_another_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("budgets.yaml").write_text(ONE)
    manager = BudgetManager("budgets.yaml")
    monkeypatch.chdir(tmp_path.parent)
    (tmp_path / "budgets.yaml").write_text(TWO)
    assert manager.reload()
    assert limits(manager) == (2, 50)


def test_another_file_is_the_one_from_then_on_unless_it_is_wrong(tmp_path: Path) -> None:
    first, other = tmp_path / "one.yaml", tmp_path / "two.yaml"
    first.write_text(ONE)
    other.write_text(WRONG)
    manager = BudgetManager(first)
    assert not manager.reload(other)
    assert manager.reload()
    assert limits(manager) == (1, 100)
    other.write_text(TWO)
    assert manager.reload(str(other))
    first.unlink()
    assert manager.reload()
    assert limits(manager) == (2, 50)


def test_a_configuration_in_code_can_be_replaced_and_has_no_file() -> None:
    manager = BudgetManager(RunBudget(max_steps=1))
    with pytest.raises(ConfigError, match="there is nothing to read again"):
        manager.reload()
    for wrong in (5, {"max_steps": 5}):
        with pytest.raises(ConfigError, match="takes a RunBudget, a Config or the path"):
            manager.reload(wrong)  # type: ignore[arg-type]
    assert manager.reload(RunBudget(max_steps=2))
    with manager.run() as run:
        assert run.budget.max_steps == 2
    assert manager.reload(Config())
    with manager.run() as run:
        assert run.budget == RunBudget()


def test_runs_in_progress_keep_their_limits_and_what_was_used_of_quotas_stays_used(
    make_world: Callable[..., World],
) -> None:
    world = make_world(config=Config({"quick": RunBudget(max_steps=3)}, prices=PRICES))
    with world.run("quick", tenant="acme", reraise=False) as run:
        run.check(steps=1, tokens=60)
        quotas = Quotas(default=(Quota(tokens=100),))
        world.engine.reload(Config({"quick": RunBudget(max_steps=1)}, prices=PRICES, quotas=quotas))
        run.record_call(60)
        run.record_call(20)
        assert (run.budget.max_steps, run.remaining()["steps"], run.remaining()["tokens"]) == (3, 1, 20)
        with pytest.raises(BudgetExceeded, match="quota 'tokens per day' of tenant 'acme'"):
            run.check(steps=1, tokens=60)
        held = run.reserve(tokens=15)
        world.engine.reload(Config(prices=PRICES, quotas=Quotas(default=(Quota(tokens=90),))))
        assert run.remaining()["tokens"] == 0
        held.commit(Usage(tokens=15))
        world.engine.reload(Config(prices=PRICES))
        run.check(steps=0, tokens=600)
        assert run.usage.tokens == 95


def test_a_money_quota_that_comes_later_is_seen_by_runs_in_progress(make_world: Callable[..., World]) -> None:
    world = make_world(config=Config(prices=PRICES))
    with world.run(tenant="acme", reraise=False) as run:
        run.check(tokens=5, model="who")
        world.engine.reload(Config(prices=PRICES, quotas=Quotas(default=(Quota(cost_usd=1),))))
        with pytest.raises(BudgetExceeded) as caught:
            run.check(tokens=5, model="who")
        assert caught.value.reason == "unpriced"


def test_prices_agents_and_policies_are_the_new_ones(make_world: Callable[..., World]) -> None:
    world = make_world(config=Config(prices=PRICES, agents={"a": RunBudget(max_steps=1)}))
    dearer = Prices({"demo": Price(input=10, output=20)}, listed=False)
    config = Config(prices=dearer, agents={"a": RunBudget(max_steps=2)}, on_unpriced="deny")
    world.engine.reload(config)
    world.activate()
    with world.tracer.start_as_current_span("work", attributes=AGENT):
        found = current_run()
        assert found is not None
        assert found.budget.max_steps == 2
    with world.run(reraise=False) as run:
        run.record(Usage(1000, 0, model="demo"))
        assert run.usage.cost_usd == 10 * PRICES_PER_THOUSAND
        run.record(Usage(5, 5, model="who"))
        with pytest.raises(BudgetExceeded, match="no price is known"):
            run.check()


PRICES_PER_THOUSAND = Usage(cost_usd=0.001).cost_usd


def test_a_required_tenant_binds_the_runs_that_begin_and_those_in_progress_with_all_inside_go_on(
    make_world: Callable[..., World],
) -> None:
    world = make_world(config=Config(prices=PRICES))
    with world.run(reraise=False) as before:
        world.engine.reload(Config(prices=PRICES, require_tenant=True))
        before.check()
        with world.run(mode="detached") as inside:
            inside.check()
    with world.run(reraise=False) as run, pytest.raises(BudgetExceeded) as caught:
        run.check()
    assert caught.value.reason == "no_tenant"


def test_bounds_of_telemetry_stay_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    manager = BudgetManager(RunBudget(max_steps=1))
    caplog.set_level(logging.INFO, "otelbudget")
    assert manager.reload(Config(telemetry=TelemetryConfig(max_tenants=3)))
    assert "reloaded from another configuration; runs in progress keep their limits" in caplog.text
    assert "telemetry changes only when the process starts anew" in caplog.text
    caplog.clear()
    assert manager.reload(Config(telemetry=TelemetryConfig(max_tenants=3)))
    assert caplog.text == "", "nothing has changed"


def test_reloading_while_threads_call_loses_no_charge(make_world: Callable[..., World]) -> None:
    world = make_world(config=Config(prices=PRICES))
    configs = [
        Config(prices=PRICES, quotas=Quotas(default=(Quota(tokens=10**6),))),
        Config(prices=PRICES, quotas=Quotas(default=(Quota(tokens=10**7),)), tenant_from=TenantFrom(baggage="t")),
    ]
    world.manager.reload(configs[0])
    begun = threading.Barrier(5)

    def work(_: int) -> None:
        begun.wait()
        for _ in range(200):
            with world.run(tenant="acme") as run, run.reserve(tokens=5) as held:
                held.commit(Usage(tokens=3))

    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(work, i) for i in range(4)]
        begun.wait()
        for i in range(40):
            assert world.manager.reload(configs[i % 2])
        for one in done:
            one.result()
    world.manager.reload(configs[0])
    with world.run(tenant="acme") as run:
        assert run.remaining()["tokens"] == 10**6 - 4 * 200 * 3
