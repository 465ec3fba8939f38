"""The Overview board as data: committed as generated, readable, and asking only for metrics that exist."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from otelbudget import semconv

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).parents[2]
KINDS = {"stat", "timeseries", "bargauge", "table"}
METRICS = {value for name, value in vars(semconv).items() if name.startswith("M_")}


def _expressions(board: Any) -> list[str]:
    return [target["expr"] for panel in board["panels"] for target in panel["targets"]]


def test_the_committed_boards_are_the_generated_ones(generate: ModuleType) -> None:
    committed = {path.name: path.read_text("utf-8") for path in (ROOT / "grafana" / "dashboards").iterdir()}
    assert committed == generate.rendered()


def test_the_script_says_that_the_committed_boards_are_current() -> None:
    script = ROOT / "grafana" / "generate.py"
    assert subprocess.run([sys.executable, str(script), "--check"], check=False).returncode == 0


def test_generating_twice_gives_the_same_bytes(generate: ModuleType) -> None:
    assert generate.rendered() == generate.rendered()


def test_every_panel_asks_a_question_and_has_a_unit(board: Any) -> None:
    titles = [panel["title"] for panel in board["panels"]]
    assert len(set(titles)) == len(titles)
    for panel in board["panels"]:
        assert panel["type"] in KINDS
        assert panel["description"]
        if panel["type"] != "table":
            assert panel["fieldConfig"]["defaults"]["unit"]


def test_panels_fill_the_grid_without_overlap(board: Any) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        taken |= cells
    height = max(y for _, y in taken) + 1
    assert taken == {(x, y) for x in range(24) for y in range(height)}
    assert [panel["id"] for panel in board["panels"]] == list(range(1, len(board["panels"]) + 1))


def test_time_series_show_their_legend(board: Any) -> None:
    for panel in board["panels"]:
        if panel["type"] == "timeseries":
            assert panel["options"]["legend"]["showLegend"] is True
            assert panel["options"]["legend"]["displayMode"] == "list"


def test_queries_ask_only_for_metrics_of_the_contract(board: Any) -> None:
    for expr in _expressions(board):
        for name in re.findall(r"otelbudget_\w+", expr):
            family = re.sub(r"_(bucket|sum|count)$", "", name)
            assert name in METRICS or family in METRICS, expr


def test_every_query_aggregates(board: Any) -> None:
    """Several processes may be scraped, each with series of its own."""
    for expr in _expressions(board):
        assert re.search(r"\b(sum|max)( by \([\w, ]+\))? \(|\bsum\(", expr), expr


def test_amounts_of_different_units_are_never_mixed(board: Any) -> None:
    """Quotas are in USD, tokens and calls: a query fixes the resource, or keeps each resource apart."""
    for expr in _expressions(board):
        for gauge in re.findall(r"otelbudget_budget_(?:used|reserved|limit)\{[^}]*\}", expr):
            apart = expr.count("by (scope, org, tenant, model, budget, resource, window)")
            assert 'resource="' in gauge or apart == len(re.findall(r"otelbudget_budget_(?:used|reserved|limit)", expr))


def test_processes_that_share_a_store_are_not_added_up(board: Any) -> None:
    asked = [expr for expr in _expressions(board) if "otelbudget_budget_used" in expr]
    assert len(asked) >= 5
    for expr in asked:
        assert re.search(r'max by \([^)]*\) \((deriv\()?otelbudget_budget_used\{[^}]*store!="memory"', expr), expr
        assert re.search(r'sum by \([^)]*\) \((deriv\()?otelbudget_budget_used\{[^}]*store="memory"', expr), expr


def test_every_query_on_tenants_follows_the_variable(board: Any) -> None:
    no_tenant = ("otelbudget_check_duration_seconds", "otelbudget_estimate_ratio")
    for expr in _expressions(board):
        if not any(name in expr for name in no_tenant):
            assert expr.count('tenant=~"$tenant"') == len(re.findall(r"otelbudget_\w+", expr)), expr


def test_the_latency_panel_asks_for_exemplars(board: Any) -> None:
    [panel] = [panel for panel in board["panels"] if panel["title"] == "How long does a check take?"]
    assert panel["targets"][0]["exemplar"] is True


@pytest.mark.parametrize("name", ["datasource", "tenant"])
def test_variables_start_usable(board: Any, name: str) -> None:
    [variable] = [variable for variable in board["templating"]["list"] if variable["name"] == name]
    if name == "tenant":
        assert variable["includeAll"] is True
        assert variable["allValue"] == ".*"
        assert variable["current"]["value"] == ["$__all"]


def test_the_committed_file_is_json_that_grafana_can_provision() -> None:
    board = json.loads((ROOT / "grafana" / "dashboards" / "overview.json").read_text("utf-8"))
    assert board["uid"] == "otelbudget-overview"
    assert board["schemaVersion"] >= 36
    assert "id" not in board
