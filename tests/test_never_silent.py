"""What leaves a line in the log: a process without limits, a refusal, a run over its limit, each record."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from world import PRICES, World

from otelbudget import BudgetExceeded, Config, Quota, QuotaService, RunBudget, Usage, load_budget_config
from otelbudget.admission import notices
from otelbudget.calls.model_call import ModelRequest, begin
from otelbudget.model.quota import Quotas

MakeWorld = Callable[..., World]
CHAT = ModelRequest(provider="p", operation="chat", model="demo", input_tokens=40, max_output_tokens=60)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing was warned of in this process yet, and every line is seen."""
    monkeypatch.setattr(notices, "_unlimited_told", False)
    with caplog.at_level(logging.INFO, "otelbudget"):
        yield


def lines(caplog: pytest.LogCaptureFixture, logger: str = "otelbudget", level: int = logging.WARNING) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.name == logger and one.levelno == level]


def steps(caplog: pytest.LogCaptureFixture) -> list[str]:
    return lines(caplog, "otelbudget.steps", logging.INFO)


def refused(run: Any, times: int = 1, **amounts: Any) -> None:
    for _ in range(times):
        with pytest.raises(BudgetExceeded):
            run.check(**amounts)


# --- a run that nothing limits


def test_a_run_that_nothing_limits_says_so_once_per_process_and_what_to_set() -> None:
    program = """
import otelbudget
for manager in (None, otelbudget.BudgetManager()):
    for _ in range(2):
        with (manager or otelbudget).run(tenant="acme") as run:
            run.record_call(10_000_000)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    [line] = done.stderr.splitlines()
    assert line.startswith("nothing limits run ")
    assert "(tenant 'acme'): it was given no budget, there is no default_budget, and no quota binds it." in line
    assert "Give setup() a RunBudget or a budgets.yaml, or run() a budget" in line


def test_where_setup_has_said_it_no_run_says_it_again(tmp_path: Path) -> None:
    program = """
import otelbudget
otelbudget.setup(metrics_port=None)
with otelbudget.run() as run:
    run.record_call(10_000_000)
otelbudget.shutdown()
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    [line] = done.stderr.splitlines()
    assert line.startswith("nothing is limited: setup() was given no budget")


def _spend(run: Any) -> None:
    run.record_call(1)


def _ask(run: Any) -> None:
    run.check()


def _hold(run: Any) -> None:
    run.reserve(tokens=5).commit(5)


@pytest.mark.parametrize("use", [_spend, _ask, _hold])
def test_each_way_to_use_a_run_without_limits_tells(
    world: World, caplog: pytest.LogCaptureFixture, use: Callable[[Any], None]
) -> None:
    with world.run() as run:
        use(run)
    assert len(lines(caplog)) == 1


def test_calls_outside_every_run_tell_too(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.manager.record_call(1)
    assert len(lines(caplog)) == 1


def test_a_file_without_a_default_budget_limits_nothing(
    make_world: MakeWorld, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "budgets.yaml"
    file.write_text("budgets: {quick: {max_steps: 5}}\nquotas: {tenants: {globex: [{tokens: 5}]}}\n")
    world = make_world(config=load_budget_config(file))
    with world.run("quick") as run:
        run.record_call(1)
    with world.run(tenant="globex") as run:
        run.record_call(1)
    assert lines(caplog) == []
    with world.run(tenant="acme") as run:
        run.record_call(1)
    assert len(lines(caplog)) == 1


@pytest.mark.parametrize(
    "quotas",
    [
        Quotas(org=[Quota(steps=5)]),
        Quotas(default=[Quota(tokens=50)]),
        Quotas(users={"*": [Quota(cost_usd=5)]}),
        Quotas(default=[Quota(tokens=50, per="run")]),
        Quotas(default=[Quota(tokens=50, on_exhausted="warn")]),
        Quotas(models={"demo": [Quota(tokens=1_000)]}),
    ],
)
def test_a_run_under_a_quota_is_limited(
    make_world: MakeWorld, caplog: pytest.LogCaptureFixture, quotas: Quotas
) -> None:
    world = make_world(config=Config(quotas=quotas, prices=PRICES))
    world.activate()
    with world.run(tenant="acme", user="ann"):
        call = begin(replace(CHAT, max_output_tokens=1, input_tokens=1))
        assert call is not None
        call.commit(Usage(1, 1, model="demo"))
    assert lines(caplog) == []


def test_a_model_that_no_quota_names_is_not_limited_by_that_of_others(
    make_world: MakeWorld, caplog: pytest.LogCaptureFixture
) -> None:
    world = make_world(config=Config(quotas=Quotas(models={"demo": [Quota(tokens=1_000)]})))
    with world.run() as run:
        run.record(Usage(1, 1, model="other"))
    assert len(lines(caplog)) == 1


@pytest.mark.parametrize("mode", ["shared", "carve"])
def test_a_child_is_limited_by_its_parents(world: World, caplog: pytest.LogCaptureFixture, mode: Any) -> None:
    carve = {"tokens": 100} if mode == "carve" else None
    with world.run(RunBudget(max_tokens=1_000)) as parent, parent.child(mode=mode, carve=carve) as child:
        child.record_call(1)
    assert lines(caplog) == []


def test_an_empty_budget_that_somebody_gave_was_meant(make_world: MakeWorld, caplog: pytest.LogCaptureFixture) -> None:
    with make_world().run(RunBudget()) as run, run.child() as child:
        child.record_call(1)
    with make_world(RunBudget()).run() as run:
        run.record_call(1)
    assert lines(caplog) == []


def test_limits_of_time_are_limits(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with world.run(RunBudget(max_seconds=10)) as run:
        run.record_call(1)
    assert lines(caplog) == []


def test_who_only_watches_is_not_told_that_nothing_is_refused(
    make_world: MakeWorld, caplog: pytest.LogCaptureFixture
) -> None:
    with make_world(enforce=False).run() as run:
        run.record_call(1)
    assert lines(caplog) == []


def test_a_run_that_does_nothing_needs_no_limit(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with world.run() as run:
        run.receipt()
    assert lines(caplog) == []


# --- refusals


def test_the_first_refusal_of_a_run_is_one_line_however_often_it_is_met(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    with world.run(RunBudget(max_steps=5, name="default"), tenant="acme", reraise=False) as run:
        for _ in range(5):
            run.record_call(1)
        refused(run, 200)
    assert lines(caplog) == [
        f"refused (limit): budget 'default' of run {run.run_id[:8]} (tenant 'acme'): exhausted: steps used 5 of 5,"
        " requested 1. A run's budget does not reset: raise max_steps, or call run.extend(steps=...)."
    ]


def test_each_resource_reason_and_run_has_a_line_of_its_own(world: World, caplog: pytest.LogCaptureFixture) -> None:
    budget = RunBudget(max_tokens=10, max_tool_calls=0, max_seconds=5)
    for _ in range(2):
        with world.run(budget, reraise=False) as run:
            refused(run, 3, tokens=11)
            refused(run, 3, tool_calls=1)
            world.advance(6)
            refused(run, 3)
    starts = [line.partition(":")[0] for line in lines(caplog)]
    assert starts == ["refused (limit)", "refused (limit)", "refused (deadline)"] * 2


def test_what_passes_by_itself_is_no_warning(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with world.run(RunBudget(max_tokens=10), reraise=False) as run:
        with run.reserve(tokens=10) as hold:
            refused(run, 5, tokens=5)
            hold.commit(0)
        run.freeze(reason="lunch")
        refused(run, 5, tokens=5)
        run.unfreeze()
        assert lines(caplog) == []
        refused(run, tokens=11)
    assert len(lines(caplog)) == 1
    busy, frozen = lines(caplog, level=logging.INFO)
    assert busy.startswith("refused (busy): budget of run ")
    assert frozen.startswith("refused (frozen): budget of run ")
    assert "frozen (lunch)" in frozen


def test_a_refusal_is_told_where_nothing_is_raised_at_the_end(
    make_world: MakeWorld, caplog: pytest.LogCaptureFixture
) -> None:
    world = make_world(RunBudget(max_steps=0))
    with contextlib.suppress(BudgetExceeded):
        world.manager.check()  # the process-wide run raises nothing
    assert len(lines(caplog)) == 1


def test_a_run_that_another_one_or_a_quota_stops_is_named_as_well(
    make_world: MakeWorld, caplog: pytest.LogCaptureFixture
) -> None:
    world = make_world(config=Config(quotas=Quotas(default=[Quota(tokens=100)])))
    with (
        world.run(RunBudget(max_tokens=10, name="root"), tenant="acme", reraise=False) as root,
        root.child(reraise=False) as child,
    ):
        refused(child, tokens=11)
    with world.run(RunBudget(), tenant="acme", reraise=False) as other:
        refused(other, tokens=101)
    by_parent, by_quota = lines(caplog)
    assert by_parent.startswith(
        f"refused (limit) to run {child.run_id[:8]}: budget 'root' of run {root.run_id[:8]} (tenant 'acme'): exhausted:"
    )
    assert by_quota.startswith(
        f"refused (limit) to run {other.run_id[:8]}: quota 'tokens per day' of tenant 'acme' (org 'default'): exhausted"
    )


def test_to_ask_whether_a_call_fits_is_no_refusal(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with world.run(RunBudget(max_steps=0)) as run:
        assert not run.can_proceed()
    assert caplog.records == []


def test_what_on_exhausted_has_lifted_was_not_refused(world: World, caplog: pytest.LogCaptureFixture) -> None:
    def more(_: Any, run: Any) -> bool:
        run.extend(steps=1)
        return True

    with world.run(RunBudget(max_steps=0, on_exhausted=more)) as run:
        run.check()
    assert caplog.records == []


def test_a_quota_service_tells_of_a_refusal_once_per_tenant_and_window(caplog: pytest.LogCaptureFixture) -> None:
    now_s = [1_700_000_000.0]
    service = QuotaService(default_daily_quota=10, clock_s=lambda: now_s[0])
    for _ in range(20):
        assert not service.check_quota("acme", 11)
        assert not service.check_quota("globex", 11)
    assert [line.partition(": exhausted")[0] for line in lines(caplog)] == [
        "refused (limit): quota 'tokens per day' of tenant 'acme' (org 'default')",
        "refused (limit): quota 'tokens per day' of tenant 'globex' (org 'default')",
    ]
    now_s[0] += 86_400
    for _ in range(20):
        assert not service.check_quota("acme", 11)
    assert len(lines(caplog)) == 3


def test_a_line_is_one_line_whatever_a_tenant_is_called(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with world.run(RunBudget(max_steps=0), tenant="a\nb", reraise=False) as run:
        run.freeze(reason="two\nlines")
        refused(run)
        run.unfreeze()
        refused(run)
        run.record(Usage(1, 1, model="m\nn"))
    assert len(caplog.records) == 3
    assert not [line for line in map(logging.LogRecord.getMessage, caplog.records) if "\n" in line]


# --- a run over its limit


def test_a_run_that_ends_over_its_limit_without_a_refusal_leaves_a_line(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    with world.run(RunBudget(max_tokens=10, name="small"), tenant="acme") as run:
        run.record_call(2_000)
        assert lines(caplog) == []
    assert lines(caplog) == [
        f"ended (overage): budget 'small' of run {run.run_id[:8]} (tenant 'acme'): over its limit, though no call was"
        " refused: tokens used 2000 of 10."
    ]


def test_a_run_that_was_refused_tells_that_and_not_its_overage(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with world.run(RunBudget(max_tokens=10), reraise=False) as run:
        run.record_call(2_000)
        refused(run)
    assert [line.split(":")[0] for line in lines(caplog)] == ["refused (limit)"]


# --- records


def test_each_record_is_a_line_of_what_was_charged_and_of_the_tightest_limit(
    make_world: MakeWorld, caplog: pytest.LogCaptureFixture
) -> None:
    quotas = Quotas(default=[Quota(cost_usd=1)])
    world = make_world(RunBudget(max_steps=5, max_tokens=2_000, name="default"), config=None)
    world.engine.reload(Config(default_budget=world.engine.config.default_budget, quotas=quotas, prices=PRICES))
    with world.run(tenant="acme", user="ann") as run:
        run.record(Usage(60, 40, model="demo"))
        run.reserve(tokens=1_500, cost_usd=0.9).commit(Usage(1_400, 0, cost_usd=0.9, model="gpt-4o", estimated=True))
        run.record(Usage(tool_calls=2, steps=0))
    who = f"run {run.run_id[:8]} (tenant 'acme', user 'ann')"
    quota = "quota 'cost_usd per day' of tenant 'acme' (org 'default')"
    assert steps(caplog) == [
        f"charged 1 step, 100 tokens (60 in, 40 out), $0.00014 of model 'demo' to {who};"
        " steps used 1 of 5 (budget 'default')",
        f"charged 1 step, 1400 tokens, $0.9 (estimated) of model 'gpt-4o' to {who};"
        f" cost_usd used $0.90014 of $1 ({quota})",
        f"charged 2 tool calls to {who}; cost_usd used $0.90014 of $1 ({quota})",
    ]


def test_there_are_as_many_lines_as_records(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.activate()
    with world.run(RunBudget(max_tokens=5_000)) as run:
        run.record_call(5)
        with run.reserve(tokens=100):
            pass  # left without a commit: the whole hold
        run.reserve(tokens=100).release()  # charges nothing
        kept = begin(CHAT)
        del kept
        world.advance(100)
        run.reserve(tokens=100).commit(5)  # and what has expired
    run.record_call(5)
    assert len(steps(caplog)) == world.records() == 5
    assert any("1 step, 40 tokens, $0.00004 (expired) to" in line for line in steps(caplog))
    assert steps(caplog)[-1].startswith("charged 1 step, 5 tokens (late) to run ")


def test_a_model_without_a_price_and_a_run_without_a_limit_show(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with world.run(RunBudget()) as run:
        run.record(Usage(1, 2, model="nobody-knows"))
    [line] = steps(caplog)
    assert "of model 'nobody-knows' (no price known) to run" in line
    assert line.endswith("; no limit")


def test_a_quota_service_says_what_it_charged(caplog: pytest.LogCaptureFixture) -> None:
    QuotaService(default_daily_quota=10).consume_quota("acme", 5, user="ann")
    assert steps(caplog) == [
        "charged 5 tokens to tenant 'acme', user 'ann';"
        " tokens used 5 of 10 (quota 'tokens per day' of tenant 'acme' (org 'default'))"
    ]


def test_no_line_is_made_that_nobody_wants(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "step", pytest.fail)
    with caplog.at_level(logging.WARNING, "otelbudget.steps"), world.run(RunBudget()) as run:
        run.record_call(5)
        run.reserve(tokens=5).commit()
    assert caplog.records == []


def test_a_handler_that_fails_is_no_matter_of_the_call(world: World) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError(record)

    broken = Broken()
    logging.getLogger("otelbudget").addHandler(broken)
    try:
        with world.run(RunBudget(max_steps=1), reraise=False) as run:
            run.record_call(5)
            refused(run)
    finally:
        logging.getLogger("otelbudget").removeHandler(broken)
    assert run.usage.tokens == 5


# --- money that no limit sees, and holds that nobody settles


@pytest.mark.parametrize(
    ("usage", "what"),
    [
        (Usage(500_000, 5, model="nobody"), "model 'nobody'"),
        (Usage(tokens=9), "what was recorded without a cost or a model"),
    ],
)
def test_spend_without_a_price_under_a_cost_limit_is_warned_of_once(
    world: World, caplog: pytest.LogCaptureFixture, usage: Usage, what: str
) -> None:
    for _ in range(2):
        with world.run(RunBudget(max_cost_usd=5), tenant="acme", reraise=False) as run:
            run.record(usage)
    [line] = lines(caplog)
    assert line.startswith(f"no price is known for {what}, so no cost limit counts what run ")
    assert "(tenant 'acme') has spent; pass cost_usd, or a model with a price" in line


def test_a_quota_of_money_that_tokens_alone_do_not_touch_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    service = QuotaService(None, quotas={"acme": [Quota(cost_usd="$5", per="month")]})
    for _ in range(3):
        service.consume_quota("acme", 10_000_000)
    [line] = lines(caplog)
    assert "no cost limit counts what tenant 'acme' has spent" in line


def test_a_reservation_that_is_dropped_is_warned_of_once_it_expires(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    with world.run(RunBudget(max_tokens=100)) as run:
        for _ in range(2):
            run.reserve(tokens=10)
        world.advance(70)
        assert run.can_proceed(tokens=100)
        run.record_call(1)
    [line] = lines(caplog)
    assert f"a reservation of run {run.run_id[:8]}" in line
    assert "was dropped without commit() or release()" in line
