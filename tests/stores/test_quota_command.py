"""``otelbudget quota``: what an operator sees and sets is what the processes that share the store go by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from redis_server import empty_server

from otelbudget import BudgetManager, QuotaService, load_budget_config
from otelbudget.cli import main

FILE = """
quotas: {{default: [{{tokens: 10k, per: day}}, {{cost_usd: $5, per: month}}]}}
store: {{url: "{}"}}
"""


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return empty_server().url if request.param == "redis" else f"sqlite:///{tmp_path / 'quotas.db'}"


@pytest.fixture
def service(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a process of the application has, in whose folder the operator works."""
    monkeypatch.chdir(tmp_path)
    Path("budgets.yaml").write_text(FILE.format(url), "utf-8")
    manager = BudgetManager(load_budget_config("budgets.yaml"))
    yield QuotaService(store=manager)
    manager.shutdown()


def rows(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    assert main(["quota", *arguments, "--json"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def test_show_tells_what_is_used_held_and_left(service: QuotaService, capsys: pytest.CaptureFixture[str]) -> None:
    service.consume_quota("acme", 1_500)
    with service.reserve("acme", 500) as held:
        tokens, money = rows(capsys, "show", "acme")
        held.release()
    assert (tokens["used"], tokens["reserved"], tokens["limit"], tokens["remaining"]) == (1500, 500, 10_000, 8000)
    assert (money["resource"], money["limit"], money["overridden"]) == ("cost_usd", "5", False)
    assert main(["quota", "show", "acme"]) == 0
    assert "tokens per day" in (said := capsys.readouterr().out)
    assert "8,500" in said
    assert "configured" in said


def test_what_is_set_is_in_force_for_all_until_it_is_taken_back(
    service: QuotaService, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rows(capsys, "set", "acme", "--tokens", "50k", "--reason", "a big day")[0]["limit"] == 50_000
    assert service.remaining("acme") == 50_000
    assert rows(capsys, "show", "acme")[0]["overridden"]
    assert rows(capsys, "set", "acme", "--configured")[0]["limit"] == 10_000
    assert service.remaining("acme") == 10_000


def test_reset_forgets_what_was_used_for_all(service: QuotaService, capsys: pytest.CaptureFixture[str]) -> None:
    service.consume_quota("acme", 9_000)
    assert rows(capsys, "reset", "acme")[0]["used"] == 0
    assert service.remaining("acme") == 10_000


def test_list_shows_every_account_that_counts(service: QuotaService, capsys: pytest.CaptureFixture[str]) -> None:
    assert rows(capsys, "list") == []
    for tenant in ("acme", "beta"):
        service.consume_quota(tenant, 70)
    found = {row["account"].split("/")[2]: row["used"] for row in rows(capsys, "list") if row["resource"] == "tokens"}
    assert found == {"acme": 70, "beta": 70}
    assert rows(capsys, "list", "--org", "elsewhere") == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["set", "acme"], "say what to set"),
        (["set", "acme", "--configured", "--tokens", "5"], "one of them"),
        (["set", "acme", "--tokens", "lots"], "tokens must be a whole number such as 5, 50k or 1.5M, got 'lots'"),
        (["set", "acme", "--tokens", "5", "--per", "fortnight"], "per must be"),
        (["show", "acme", "--store", "memory"], "name a --store that they share"),
        (["show", "acme", "--config", "gone.yaml"], "gone.yaml"),
    ],
)
def test_what_cannot_be_done_says_why_and_changes_nothing(
    service: QuotaService, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(["quota", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert service.remaining("acme") == 10_000


@pytest.mark.parametrize("action", ["show", "reset"])
@pytest.mark.parametrize("file", [FILE, "store: {{url: '{}'}}"])  # one without a quota
def test_a_store_that_is_not_there_is_an_error_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: str, action: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("budgets.yaml").write_text(file.format("redis://:s3cr3t@127.0.0.1:1/0"), "utf-8")
    assert main(["quota", action, "acme"]) == 2
    said = capsys.readouterr().err
    assert "can't be reached" in said or "refused" in said.lower()
    assert "s3cr3t" not in said


def test_another_address_has_the_tenants_apart_as_the_file_says(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    apart = "quotas: {{tenants: {{acme: [{{tokens: 10k, per: day}}]}}}}\nstore: {{url: '{}', shard_by: tenant}}"
    Path("budgets.yaml").write_text(apart.format(url), "utf-8")
    manager = BudgetManager(load_budget_config("budgets.yaml"))
    Path("budgets.yaml").write_text(apart.format("redis://127.0.0.1:1/0"), "utf-8")
    service = QuotaService(store=manager)
    service.consume_quota("acme", 70)
    assert rows(capsys, "set", "acme", "--tokens", "50", "--store", url)[0]["used"] == 70
    assert service.remaining("acme") == 0
    assert [row["used"] for row in rows(capsys, "list", "--store", url) if row["resource"] == "tokens"] == [70]
    manager.shutdown()
