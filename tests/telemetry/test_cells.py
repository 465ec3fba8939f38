"""Cells: bounded label sets whose sums stay right, and observations for those who ask for them."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from otelbudget import RunBudget
from otelbudget.ledger.ledger import Ledger
from otelbudget.semconv import M_RUN_COST
from otelbudget.telemetry import cells, snapshot
from otelbudget.telemetry.cell_types import BUCKETS, Tally
from otelbudget.telemetry.cells import Meters
from otelbudget.telemetry.families import FAMILIES, HISTOGRAMS
from otelbudget.telemetry.labels import Names

if TYPE_CHECKING:
    from conftest import Traffic

    from otelbudget.telemetry.snapshot import Snapshot


def _series(now: Snapshot) -> int:
    plain = sum(len(list(family.read(now))) for family in FAMILIES)
    return plain + sum(len(h.counts) + 2 for family in HISTOGRAMS for _, h in family.read(now))


def test_ten_thousand_runs_of_seven_hundred_tenants_stay_bounded_and_add_up() -> None:
    ledger = Ledger()
    meters = Meters(ledger, tuple, clock_ns=lambda: 0)
    for i in range(10_000):
        tenant = f"tenant-{i % 700}"
        for budget in ("quick", "deep"):
            meters.budget(tenant, budget).call += 1
        spend = meters.spend(tenant, f"model-{i % 60}-2026-01-31")
        spend.input += 100
        spend.cost_nanousd += 7
        meters.observe_run(tenant, ("completed", "exhausted", "error")[i % 3], [1, 100, 100, 0, 7, 0, 0], 1.0, None)
    now = meters.snapshot()
    assert _series(now) <= 40_000
    assert len(now.tenants) == cells.MAX_TENANTS + 1
    assert {cell.model for cell in now.spends} == {f"model-{i}" for i in range(50)} | {"other"}
    assert sum(cell.call for cell in now.budgets) == 20_000
    assert sum(cell.input for cell in now.spends) == 1_000_000
    assert sum(cell.cost_nanousd for cell in now.spends) == 70_000
    assert sum(sum(found.counts) for cell in now.tenants for found in cell.runs.values()) == 3 * 10_000
    assert now.label_overflow > 0


def test_checks_come_in_between_while_a_scrape_copies_many_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger()
    meters = Meters(ledger, tuple, clock_ns=lambda: 0)
    for i in range(4_000):
        meters.spend(f"tenant-{i % 400}", f"model-{i // 400}").input += 1
    came_in: list[int] = []

    def check(_: float) -> None:
        other = threading.Thread(target=lambda: ledger.locked(lambda: came_in.append(1)))
        other.start()
        other.join(20)

    monkeypatch.setattr(snapshot, "time", SimpleNamespace(sleep=check))
    assert sum(cell.input for cell in meters.snapshot().spends) == 4_000
    assert len(came_in) >= 4_000 / 250


def test_budget_names_made_up_at_run_time_are_bounded() -> None:
    ledger = Ledger()
    meters = Meters(ledger, tuple, clock_ns=lambda: 0)
    for i in range(1_000):
        meters.budget("acme", f"for-user-{i}").call += 1
    now = meters.snapshot()
    assert len(now.budgets) == cells.MAX_BUDGETS + 1
    assert sum(cell.call for cell in now.budgets) == 1_000


def test_names_of_the_configuration_have_room_whoever_comes_first() -> None:
    names = Names(3, overflow := Tally(), ["configured-1", "configured-2"])
    assert [names.label(name) for name in ("a", "b", "configured-1", "c", "configured-2", "a")] == [
        "a", "other", "configured-1", "other", "configured-2", "a",
    ]  # fmt: skip
    assert overflow.n == 2


def test_a_name_that_is_too_long_for_a_label_is_other_unless_it_is_configured() -> None:
    names = Names(3, overflow := Tally(), ["c" * 201])
    assert [names.label(name) for name in ("a" * 200, "b" * 201, "c" * 201)] == ["a" * 200, "other", "c" * 201]
    assert overflow.n == 1


def test_a_release_date_does_not_make_another_model(quiet: Traffic) -> None:
    plain = quiet.meters.spend("acme", "gpt-9")
    assert quiet.meters.spend("acme", "gpt-9-2026-01-31") is plain
    assert quiet.meters.spend("acme", "gpt-9@20260131") is plain
    assert quiet.meters.spend("acme", "gpt-9-mini") is not plain


def test_a_priced_model_keeps_its_date() -> None:
    ledger = Ledger()
    meters = Meters(ledger, tuple, models=["gpt-9-2026-01-31"], clock_ns=lambda: 0)
    assert meters.spend("acme", "gpt-9-2026-01-31").model == "gpt-9-2026-01-31"


def test_spend_of_a_tenant_on_every_priced_model_is_born_at_zero(quiet: Traffic) -> None:
    quiet.meters.tenant("acme")
    assert [(cell.model, cell.cost_nanousd) for cell in quiet.meters.snapshot().spends] == [
        ("small-1", 0),
        ("large-1", 0),
    ]


def test_a_snapshot_does_not_change_any_more(busy: Traffic) -> None:
    before = busy.meters.snapshot()
    shown = [list(family.read(before)) for family in FAMILIES]
    busy.meters.budget("acme", "research").call += 1
    busy.meters.count("acme", "research", "call", "deny", "limit", again=True)
    busy.meters.spend("acme", "small-1").input += 1
    busy.meters.observe_run("acme", "completed", [0] * 7, 1.0, None)
    assert [list(family.read(before)) for family in FAMILIES] == shown
    completed = next(cell for cell in before.tenants if cell.tenant == "acme").runs[M_RUN_COST, "completed"]
    assert sum(completed.counts) == 1


def test_only_the_runs_closest_to_their_limits_are_shown_one_by_one(quiet: Traffic) -> None:
    for i in range(30):
        quiet.live(f"run-{i}", "acme", "research", steps=i % 10, cost_nanousd=i)
    shown = quiet.meters.snapshot().active_runs
    assert [run.run_id for run in shown[:3]] == ["run-29", "run-19", "run-9"]
    assert len(shown) == cells.TOP_RUNS


def test_two_runs_under_one_id_are_one_sample(quiet: Traffic) -> None:
    quiet.live("same", "acme", "research", steps=1, cost_nanousd=0)
    quiet.live("same", "acme", "research", steps=4, cost_nanousd=0)
    assert [run.used_ratio for run in quiet.meters.snapshot().active_runs] == [0.4]


def test_a_run_without_limits_has_no_ratio(quiet: Traffic) -> None:
    quiet.live_with(RunBudget(), "free", "acme", steps=1)
    assert [run.used_ratio for run in quiet.meters.snapshot().active_runs] == [None]


def test_observations_are_kept_only_while_wanted_and_given_once(quiet: Traffic) -> None:
    def observe() -> None:
        quiet.meters.observe_estimate("small-1", 1.5)

    observe()
    quiet.meters.tell_observations(True)
    observe()
    taken = quiet.meters.take_observations()
    assert [(seen.metric, seen.labels, seen.value) for seen in taken] == [
        ("otelbudget_estimate_ratio", ("small-1",), 1.5)
    ]
    assert quiet.meters.take_observations() == []
    quiet.meters.tell_observations(False)
    observe()
    assert quiet.meters.take_observations() == []


@pytest.mark.parametrize("bucket", range(len(BUCKETS["otelbudget_check_duration_seconds"])))
def test_check_buckets_go_1_2_5_from_a_microsecond_to_a_second(bucket: int) -> None:
    steps = [f"{m}e{e}" for e in range(-6, 0) for m in (1, 2, 5)] + ["1"]
    assert BUCKETS["otelbudget_check_duration_seconds"][bucket] == float(steps[bucket])
