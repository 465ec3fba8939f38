"""The boards as data: committed as generated, readable, and asking only for what exists."""

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

GRAFANA = Path(__file__).parents[2] / "grafana"
NAMES = ("overview", "tenant", "run")
KINDS = {"stat", "timeseries", "bargauge", "table", "traces"}
METRICS = {value for name, value in vars(semconv).items() if name.startswith("M_")}
ATTRIBUTES = {value for name, value in vars(semconv).items() if not name.startswith("M_") and isinstance(value, str)}
#: Metrics without a tenant.
OF_ALL = ("otelbudget_estimate_ratio_bucket", "otelbudget_budget_reset_timestamp_seconds")
QUOTA = r"otelbudget_budget_(?:used|reserved|limit)"
WHICH = "scope, org, tenant, model, agent, tag, budget, window, resource, mode"


@pytest.fixture(params=NAMES)
def board(generate: ModuleType, request: pytest.FixtureRequest) -> Any:
    return generate.boards()[f"{request.param}.json"]


def _expressions(board: Any) -> list[str]:
    return [target["expr"] for panel in board["panels"] for target in panel["targets"] if "expr" in target]


def test_the_committed_files_are_the_generated_ones(generate: ModuleType) -> None:
    committed = [*(GRAFANA / "dashboards").iterdir(), *(GRAFANA / "alerts").iterdir()]
    assert {f"{path.parent.name}/{path.name}": path.read_text("utf-8") for path in committed} == generate.rendered()


def test_the_script_says_that_the_committed_files_are_current() -> None:
    script = GRAFANA / "generate.py"
    assert subprocess.run([sys.executable, str(script), "--check"], check=False).returncode == 0


def test_every_panel_has_a_title_of_its_own_a_description_and_a_unit(board: Any) -> None:
    titles = [panel["title"] for panel in board["panels"]]
    assert len(set(titles)) == len(titles)
    for panel in board["panels"]:
        assert panel["type"] in KINDS
        assert panel["description"]
        assert panel["type"] in ("table", "traces") or panel["fieldConfig"]["defaults"]["unit"]


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


def test_titles_of_narrow_panels_are_short_enough_to_be_read(board: Any) -> None:
    """At 1600 pixels a column of the grid is 66 wide, and a letter of a title 7."""
    for panel in board["panels"]:
        assert 7 * len(panel["title"]) <= 66 * panel["gridPos"]["w"] - 60, panel["title"]


def test_time_series_show_their_legend(board: Any) -> None:
    for panel in board["panels"]:
        if panel["type"] == "timeseries":
            assert panel["options"]["legend"]["showLegend"] is True


def test_queries_ask_only_for_metrics_of_the_contract(board: Any) -> None:
    for expr in _expressions(board):
        for name in re.findall(r"otelbudget_\w+", expr):
            family = re.sub(r"_(bucket|sum|count)$", "", name)
            assert name in METRICS or family in METRICS, expr


def test_every_query_aggregates(board: Any) -> None:
    """Several processes may be scraped, each with series of its own."""
    for expr in _expressions(board):
        assert re.search(r"\b(sum|max|min|count) ?(by \([\w, ]+\) ?)?\(", expr), expr


def test_a_legend_names_labels_that_its_query_keeps_or_makes(board: Any) -> None:
    """Also where the demo has no data to show it with."""
    for target in [target for panel in board["panels"] for target in panel["targets"] if "expr" in target]:
        for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
            given = rf'\bby \([\w, ]*\b{label}\b|label_replace\(.*, "{label}", '
            assert re.search(given, target["expr"]), (target["expr"], label)


#: The first that is found in a query says its unit.
UNITS = (
    (r"bottomk\(", "s"),
    (r"^topk\(1, \(max by .*cost_usd", "currencyUSD"),
    (rf"^(topk\(1, )?max by \({WHICH}\)|_ratio(_bucket)?[{{\[)]", "percentunit"),
    (r"^count\(|_cost_usd_count", "locale"),
    (r"_seconds", "s"),
    (r"otelbudget_tokens_total", "suffix:tok/s"),
    (r"\* 60( or vector\(0\))?$", "suffix:/min"),
    (r"cost_usd", "currencyUSD"),
    (r"otelbudget_store_up|otelbudget_config_last_reload", "none"),
    (r"", "locale"),
)


def test_units_are_those_of_what_is_asked_for(board: Any) -> None:
    for panel in board["panels"]:
        for target in panel["targets"] if panel["type"] not in ("table", "traces") else ():
            asked = target.get("expr") or target["query"].replace("cost.usd", "cost_usd")
            wanted = next(unit for pattern, unit in UNITS if re.search(pattern, asked))
            assert panel["fieldConfig"]["defaults"]["unit"] == wanted, (panel["title"], asked)


#: What a column of a table asks for, by its heading, and its unit.
COLUMNS = {
    "Spent": (r"increase\(otelbudget_cost_usd_total", "currencyUSD"),
    "Per hour": (r"rate\(otelbudget_cost_usd_total.* \* 3600$", "currencyUSD"),
    "Cost": (r"^topk\(10, .*_active_run_cost_usd", "currencyUSD"),
    "Nearest limit": (r"^max .*_active_run_used_ratio", "percentunit"),
    "Fullest quota": (r"^max by \(tenant\) \(max by .* / \(otelbudget_budget_limit", "percentunit"),
    "Share used": (rf"\(topk\(15, max by \({WHICH}\) \(otelbudget_budget_used", "percentunit"),
    "At its end": (r"\) \+ .* \* on .*_reset_timestamp_seconds", "percentunit"),
    "Empty in": (r"> 0\.01\) / ", "s"),
    "Begins anew in": (r"\* 0 \+ on .*_reset_timestamp_seconds", "s"),
    "Used": (rf"\(max by \({WHICH}\) \(otelbudget_budget_used{{", "short"),
    "Held": (rf"\(max by \({WHICH}\) \(otelbudget_budget_reserved{{", "short"),
    "Limit": (rf"\(max by \({WHICH}\) \(otelbudget_budget_limit{{", "short"),
    "Refused": (r'increase\(otelbudget_checks_total{.*decision="deny"', "locale"),
    "Blocked for": (r"time\(\) - max by \(tenant, budget\) \(ALERTS_FOR_STATE", "s"),
    "Users": (r"otelbudget_users_over_ratio", "locale"),
}


def test_columns_ask_for_what_their_heading_says_and_have_its_unit(board: Any) -> None:
    for panel in board["panels"]:
        asked = {f"Value #{target['refId']}": target.get("expr", "") for target in panel["targets"]}
        for override in panel["fieldConfig"]["overrides"] if panel["type"] == "table" else ():
            field = re.sub("^Value$", "Value #A", override["matcher"]["options"])
            if field in asked:
                shown = {one["id"]: one["value"] for one in override["properties"]}
                pattern, unit = COLUMNS[shown["displayName"]]
                assert re.search(pattern, asked[field]), (shown["displayName"], asked[field])
                assert shown.get("unit", "locale") == unit, shown["displayName"]


def test_amounts_of_different_units_are_never_mixed(board: Any) -> None:
    """Quotas are in USD, tokens and calls: every resource is kept apart."""
    for expr in _expressions(board):
        if re.search(QUOTA, expr):
            apart = re.findall(rf"(?:max|sum) by \({WHICH}\) \(", expr)
            assert len(apart) >= len(re.findall(QUOTA, expr)) / 3, expr


def test_amounts_of_processes_that_share_a_store_are_not_added_up(board: Any) -> None:
    for expr in _expressions(board):
        for gauge in re.findall(rf"sum by \({WHICH}\) \(([^)]*{QUOTA}[^)]*)\)", expr):
            assert 'store="memory"' in gauge, expr


def test_every_query_of_the_tenant_board_is_about_that_tenant(generate: ModuleType) -> None:
    for expr in _expressions(generate.boards()["tenant.json"]):
        of_tenants = [name for name in re.findall(r"otelbudget_\w+", expr) if name not in OF_ALL]
        assert expr.count('tenant="$tenant"') == len(of_tenants), expr


def test_traces_are_asked_for_attributes_that_are_written(board: Any) -> None:
    queries = [target["query"] for panel in board["panels"] for target in panel["targets"] if "query" in target]
    for found in re.findall(r"(?:span|event)\.((?:otelbudget|gen_ai)[\w.]+)", " ".join(queries)):
        prefixes = (semconv.USED_PREFIX, semconv.LIMIT_PREFIX)
        assert found in ATTRIBUTES or found.startswith(prefixes), found


#: TraceQL that was tried on a real Tempo. A float attribute compared with an integer never matches; aggregates are of
#: spans' attributes, as of several events of a span one counts, and only of those that have it; there is no quantile.
ATTRIBUTE = r"(?:(?:span|event)\.[\w.]+|name|event:name)"
CONDITION = rf'{ATTRIBUTE} (?:(?:=|=~) "[^"]+"|!= nil|[<>]=? \d+\.\d+)'
SPANSET = rf"{{ {CONDITION}(?: && {CONDITION})* }}"
SEARCH = re.compile(rf"{SPANSET}(?: \| select\({ATTRIBUTE}(?:, {ATTRIBUTE})*\))?|\$trace")
AGGREGATE = re.compile(
    rf"({SPANSET}) \| (?:sum|avg|max)_over_time\((span\.[\w.]+)\) by \({ATTRIBUTE}\)(?: \| topk\(\d+\))?"
)
LITERALS = {"$run", "$tenant", "deny", "otelbudget.run.*", semconv.EVENT_THRESHOLD}
#: What Tempo's data source calls the columns that links hang on.
TEMPO_COLUMNS = {"traces": {"traceID"}, "spans": {"spanID"}}


def test_traces_are_asked_for_in_a_form_that_works(board: Any) -> None:
    for panel in board["panels"]:
        for query in [target["query"] for target in panel["targets"] if "query" in target]:
            aggregate = AGGREGATE.fullmatch(query)
            assert aggregate or SEARCH.fullmatch(query), query
            assert aggregate is None or f"{aggregate[2]} > 0.0" in aggregate[1], query
            assert set(re.findall(r'"([^"]+)"', query)) <= LITERALS
            # It gives each series a frame of its own, and a table shows one.
            assert aggregate is None or panel["type"] in ("timeseries", "bargauge")


def test_links_of_what_tempo_finds_hang_on_columns_that_are_there(board: Any) -> None:
    for panel in board["panels"]:
        if panel["type"] == "table" and "query" in panel["targets"][0]:
            linked = {override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]}
            assert linked == TEMPO_COLUMNS[panel["targets"][0]["tableType"]], panel["title"]


@pytest.mark.parametrize(
    ("name", "title"), [("overview", "How long does a check take?"), ("tenant", "What does a run cost?")]
)
def test_panels_of_single_calls_and_runs_lead_to_traces(generate: ModuleType, name: str, title: str) -> None:
    [panel] = [panel for panel in generate.boards()[f"{name}.json"]["panels"] if panel["title"] == title]
    assert panel["targets"][0]["exemplar"] is True


def test_links_lead_to_boards_and_variables_that_exist(generate: ModuleType, board: Any) -> None:
    boards = {found["uid"]: found for found in generate.boards().values()}
    for uid, variable in re.findall(r"/d/([\w-]+)\?var-(\w+)=", str(board)):
        assert variable in {one["name"] for one in boards[uid]["templating"]["list"]}


#: Variables that Grafana sets itself: of a time range, and in a link of the value that it hangs on.
BUILT_IN = {"__rate_interval", "__range", "__url_time_range", "__value", "__data", "__series"}


def test_every_variable_is_one_of_the_board_or_of_grafana(board: Any) -> None:
    declared = {one["name"] for one in board["templating"]["list"]}
    # What label_replace found is called $1.
    used = set(re.findall(r"\$\{?([a-zA-Z_]+)", json.dumps(board)))
    assert used <= declared | BUILT_IN


def test_a_data_source_is_a_variable_of_its_kind(board: Any) -> None:
    kinds = {f"${{{one['name']}}}": one["query"] for one in board["templating"]["list"] if one["type"] == "datasource"}
    for place in (board["annotations"]["list"], board["panels"], *(panel["targets"] for panel in board["panels"])):
        for one in place:
            assert kinds[one["datasource"]["uid"]] == one["datasource"]["type"]


def test_alerts_are_drawn_over_every_board(board: Any) -> None:
    [alerts] = board["annotations"]["list"]
    assert alerts["expr"] == 'ALERTS{alertname=~"Otelbudget.*", alertstate="firing"}'


def test_grafana_can_provision_the_boards(board: Any) -> None:
    assert board["uid"] == f"otelbudget-{board['title'].rpartition(' ')[2].lower()}"
    assert board["schemaVersion"] >= 36
    assert "id" not in board
