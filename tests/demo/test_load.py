"""The demo's load: one agent per tenant, each under its budget; what breaks is told; an end comes soon and clean."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from provider import Provider, Reply

import otelbudget
from otelbudget import load_budget_config
from otelbudget.demo import evidence
from otelbudget.demo.load import BUDGETS, JOBS, Job, Load, Row, jobs, latency, stopped_by


@pytest.fixture
def manager() -> Iterator[otelbudget.BudgetManager]:
    yield otelbudget.setup(BUDGETS, metrics_port=None, exporter="none")
    otelbudget.shutdown()


def done(load: Load) -> None:
    until = time.monotonic() + 30
    while load.working and time.monotonic() < until:
        time.sleep(0.01)
    assert not load.working


def test_every_job_has_its_budget_in_the_packaged_file() -> None:
    assert {job.budget for job in JOBS} == set(load_budget_config(BUDGETS))


def test_further_tenants_do_the_same_under_other_names() -> None:
    made = jobs(len(JOBS) + 2, load_budget_config(BUDGETS))
    assert [job.tenant for job in made[-2:]] == ["globex-2", "initech-2"]
    assert made[-1].budget == made[1].budget
    assert len({job.tenant for job in made}) == len(made)


def test_other_budgets_are_shared_out() -> None:
    assert [job.budget for job in jobs(3, {"a": 1, "support_bot": 2})] == ["support_bot", "support_bot", "a"]
    assert [job.budget for job in jobs(2, {})] == [None, None]


def test_all_that_is_sent_was_admitted_and_told(manager) -> None:
    changes: list[tuple[str, bool]] = []
    work = jobs(8, load_budget_config(BUDGETS))
    with Provider() as server:
        load = Load(work, server.base_url, changed=lambda row: changes.append((row.job.tenant, row.working)))
        before = evidence.scrape(manager.engine.meters)
        load.start()
        done(load)
        after = evidence.scrape(manager.engine.meters)
        assert server.requests == evidence.admitted(after) > 30
        for row in load.rows:
            receipt = row.receipt()
            assert receipt is not None
            assert server.requests_by_user[row.job.tenant] == receipt.used["steps"]
    assert evidence.admitted(before) == 0
    assert evidence.refused(after) == 24 + 4  # the loop's, and one each for steps twice, tokens, money
    assert sorted(changes) == sorted((job.tenant, working) for job in work for working in (True, False))
    assert all("_total{" in series and value for series, value in evidence.counted(after))


def test_the_server_is_as_slow_as_a_job_says(manager) -> None:
    work = [Job("slow", "live_chat", latency_s=0.4), Job("fast", "quick_answer", latency_s=0.0)]
    with Provider(latency_s=latency(work)) as server:
        load = Load(work, server.base_url)
        load.start()
        done(load)
    slow, fast = (row.receipt() for row in load.rows)
    assert slow is not None
    assert fast is not None
    assert slow.used["seconds"] > 1.6 > fast.used["seconds"]


def test_a_broken_agent_is_told_and_others_go_on(manager, caplog) -> None:
    with Provider(script=lambda request: Reply(status=500) if request.user == "a" else None) as server:
        load = Load([Job("a", "quick_answer"), Job("b", "quick_answer")], server.base_url)
        load.start()
        done(load)
    broken, whole = load.rows
    assert type(broken.error).__name__ == "InternalServerError"
    assert "the agent of a failed" in caplog.text
    assert whole.error is None
    assert whole.outcomes == {"completed": 1}


def test_stopping_ends_runs_in_their_middle_and_starts_no_more(manager) -> None:
    with Provider(latency_s=0.2) as server:
        load = Load([Job("a", "deep_research", documents=24)], server.base_url, forever=True)
        load.start()
        while server.requests < 2:
            time.sleep(0.01)
        load.stop()
        assert not load.working
        sent = server.requests
        receipt = load.rows[0].receipt()
        assert receipt is not None
        assert (receipt.reason, stopped_by(receipt)) == ("frozen", "frozen")
        assert receipt.used["steps"] == sent == evidence.admitted(evidence.scrape(manager.engine.meters))


def test_a_loop_that_is_stopped_has_not_answered(manager) -> None:
    with Provider(latency_s=0.1) as server:
        load = Load([Job("a", None, stubborn=25)], server.base_url)
        load.start()
        while server.requests < 2:
            time.sleep(0.01)
        load.stop()
    (row,) = load.rows
    assert (row.outcomes, row.receipt().denials, row.working) == ({"frozen": 1}, 1, False)


def test_a_run_that_begins_while_all_are_stopped_is_stopped_too(manager) -> None:
    with Provider() as server:
        load = Load([Job("a", "quick_answer")], server.base_url, changed=lambda _: load._stopping.set())
        load.start()
        done(load)
        assert server.requests == 0
    assert (load.rows[0].outcomes, load.rows[0].working) == ({"frozen": 1}, False)


def test_forever_means_one_run_after_another(manager) -> None:
    with Provider() as server:
        load = Load([Job("a", "quick_answer")], server.base_url, forever=True)
        load.start()
        while sum(load.rows[0].outcomes.values()) < 2:
            time.sleep(0.01)
        load.stop()
    assert load.rows[0].outcomes["completed"] >= 2


def test_a_row_that_has_not_begun_has_no_receipt() -> None:
    assert Row(JOBS[0]).receipt() is None
