from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from otelbudget.model.decision import ALLOWED, Decision, Denial
from otelbudget.model.levels import Where


def test_a_decision_is_true_when_allowed() -> None:
    assert ALLOWED
    assert Decision(True, warned=True)
    assert not Decision(False, denial=Denial(reason="frozen"))


@pytest.mark.parametrize(
    ("denial", "says"),
    [
        (
            Denial(reason="limit", resource="steps", budget="b", scope="run", used=5, reserved=0, limit=5, requested=1),
            "budget 'b' of run: exhausted: steps used 5 of 5, requested 1. A run's budget does not reset:"
            " raise max_steps, or call run.extend(steps=...).",
        ),
        (
            Denial(
                reason="limit",
                resource="tokens",
                scope="run",
                used=5,
                reserved=3,
                limit=9,
                requested=900,
                tenant="acme",
                own_maximum=800,
            ),
            "budget of run (tenant 'acme'): exhausted: tokens used 5, held 3 of 9, requested 900. The request's own"
            " maximum of 800 output tokens is part of that; a smaller one may fit. A run's budget does not reset:"
            " raise max_tokens, or call run.extend(tokens=...).",
        ),
        (
            Denial(
                reason="limit",
                resource="cost_usd",
                scope="run",
                used=Decimal("1E-9"),
                reserved=0,
                limit=Decimal(1),
                requested=Decimal("0.05"),
            ),
            "budget of run: exhausted: cost_usd used $0.000000001 of $1, requested $0.05. A run's budget does not"
            " reset: raise max_cost_usd, or call run.extend(cost_usd=...).",
        ),
        (
            Denial(
                reason="limit",
                resource="tokens",
                scope="tenant",
                used=5,
                limit=5,
                requested=1,
                budget="tokens per day",
                where=Where("tenant", ("default", "acme")),
                per="day",
                resets_at=datetime(2030, 1, 2, tzinfo=UTC),
                resets_in_s=60.0,
                origin="budgets.yaml:7",
            ),
            "quota 'tokens per day' of tenant 'acme' (org 'default'): exhausted: tokens used 5 of 5, requested 1. It"
            " resets at 2030-01-02T00:00:00+00:00, in 60 s. To allow more, raise it under quotas (budgets.yaml:7) or"
            " with QuotaService.set_quota().",
        ),
        (
            Denial(reason="limit", resource="depth", scope="run", used=1, reserved=0, limit=1, requested=1),
            "budget of run: exhausted: depth used 1 of 1, requested 1. Raise max_depth, or open the run with"
            " mode='detached'.",
        ),
        (
            Denial(reason="deadline", resource="seconds", scope="run", used=10.5, limit=10.0),
            "budget of run: out of time: 10.5 s of 10 s have passed. Raise max_seconds, or call"
            " run.extend(seconds=...).",
        ),
        (
            Denial(
                reason="busy",
                resource="steps",
                scope="run",
                used=0,
                reserved=5,
                limit=5,
                requested=1,
                retry_after_s=1.0,
            ),
            "budget of run: busy: steps used 0, held 5 of 5, requested 1. Calls in flight hold the rest; retry when"
            " one has ended, in about 1.0 s, or wait with wait_s. A run's budget does not reset: raise max_steps, or"
            " call run.extend(steps=...).",
        ),
        (
            Denial(reason="frozen", detail="by ops"),
            "budget of run: frozen (by ops): no new calls until run.unfreeze().",
        ),
    ],
)
def test_a_denial_says_what_ran_out_where_and_how_to_raise_it(denial: Denial, says: str) -> None:
    assert denial.message == says


@pytest.mark.parametrize(
    "reason", ["limit", "busy", "deadline", "closed", "unpriced", "no_tenant", "store_unavailable", "frozen"]
)
def test_every_reason_has_a_message_without_numbers_too(reason: str) -> None:
    whose = "quotas: " if reason == "store_unavailable" else "budget of run: "
    assert Denial(reason=reason, resource="steps").message.startswith(whose)


def test_a_denial_outside_every_run_explains_the_process_wide_one() -> None:
    message = Denial(reason="closed", ambient=True).message
    assert "share one process-wide run" in message
    assert "with otelbudget.run(...)" in message


def test_the_exception_carries_every_number_of_the_denial() -> None:
    error = Denial(
        reason="busy",
        resource="steps",
        budget="b",
        scope="run",
        used=1,
        reserved=2,
        limit=3,
        requested=4,
        retry_after_s=5,
    ).error("receipt")
    assert (error.reason, error.resource, error.budget, error.scope) == ("busy", "steps", "b", "run")
    assert (error.used, error.reserved, error.limit, error.requested) == (1, 2, 3, 4)
    assert (error.retry_after_s, error.resets_at, error.receipt) == (5, None, "receipt")


def test_a_refusal_says_what_wrap_up_still_has_and_time_reads_as_people_write_it() -> None:
    aside = Denial(reason="limit", resource="steps", used=4, reserved=0, limit=4, requested=1, set_aside=1)
    assert "steps used 4 of 4 (1 more set aside for wrap_up()), requested 1" in aside.message
    late = Denial(reason="deadline", resource="seconds", used=5120.4, limit=5000.0)
    assert "5120.4 s of 5000 s have passed" in late.message
