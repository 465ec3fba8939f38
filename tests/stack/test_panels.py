"""Every query of every board against a real Prometheus that scrapes the demo."""

from __future__ import annotations

import math
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
from demo_process import serving
from prometheus_server import Prometheus, running, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

# The first run on a machine builds Prometheus.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

#: What Grafana puts in for its variables; umbrella is refused by its budget and spends on its quota.
VARIABLES = {"$tenant": "umbrella", "$__rate_interval": "1m", "$__range": "5m", "$__interval": "1s"}
HOUR = "at the end of an hour, all quotas of the demo begin anew before they are used up"
#: Queries that may be empty on a healthy system, by panel and what they ask for, with the reason.
MAY_BE_EMPTY = {
    ("Next quota to run out", ""): HOUR,
    ("Runs out next", ""): HOUR,
    ("Which quotas are used most?", "unless"): HOUR,
    ("Last reload", ""): "the demo does not follow its file",
    (
        "Which runs are burning?",
        "tenant=",
    ): "only one of the demo's runs takes long enough, and it is not this tenant's",
}


@pytest.fixture(scope="module")
def prometheus(
    has_prometheus: None, scrape_config: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """A Prometheus that scrapes a demo at work."""
    pytest.importorskip("openai", reason="the demo needs the openai client")
    directory = tmp_path_factory.mktemp("demo")
    with serving(directory) as port, running(scrape_config.format(port=port), directory) as prometheus:
        yield prometheus


def _filled(expr: str, run: str = "") -> str:
    for name, value in (VARIABLES | {"$run": run}).items():
        expr = expr.replace(name, value)
    assert "$" not in expr.replace('"$1"', ""), expr  # what label_replace found
    return expr


def _asked(prometheus: Prometheus, target: dict[str, Any], run: str = "") -> list[Any]:
    """The series with numbers that a query of a panel gives now."""
    expr = _filled(target["expr"], run)
    if target["instant"]:
        result = prometheus.query(expr)
    else:
        now = time.time()
        span = {"query": expr, "start": now - 60, "end": now, "step": 1}
        result = prometheus.ask("query_range", span)["result"]
    return [one for one in result if not all(math.isnan(float(v)) for _, v in one.get("values") or [one["value"]])]


def _may_be_empty(title: str, expr: str) -> bool:
    return any(title == panel and what in expr for panel, what in MAY_BE_EMPTY)


@pytest.mark.parametrize("name", ["overview", "tenant", "run"])
def test_every_panel_shows_data_and_its_legend_names_labels_that_are_there(
    prometheus: Prometheus, generate: ModuleType, name: str
) -> None:
    active = prometheus.wait_for("otelbudget_active_run_used_ratio", 90)
    run = active[0]["metric"]["run_id"]
    for panel in generate.boards()[f"{name}.json"]["panels"]:
        for target in panel["targets"]:
            if "expr" not in target:
                continue
            series = _asked(prometheus, target, run)
            if not series and not _may_be_empty(panel["title"], target["expr"]):
                what = f"{panel['title']} {target['expr']}"
                series = until(lambda target=target: _asked(prometheus, target, run), 90, what)
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert all(label in one["metric"] for one in series), (panel["title"], label)


def test_columns_of_tables_are_labels_or_values_that_are_there(prometheus: Prometheus, generate: ModuleType) -> None:
    prometheus.wait_for("otelbudget_active_run_used_ratio", 90)
    for board in generate.boards().values():
        for panel in board["panels"]:
            asked = [target for target in panel["targets"] if target.get("format") == "table"]
            columns = {override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]}
            series = asked and not _may_be_empty(panel["title"], asked[0]["expr"]) and _asked(prometheus, asked[0])
            if series:
                values = {"Value"} if len(asked) == 1 else {f"Value #{target['refId']}" for target in asked}
                assert columns <= values | set(series[0]["metric"]), panel["title"]


def test_panels_with_exemplars_find_traces(prometheus: Prometheus, generate: ModuleType) -> None:
    boards = generate.boards().values()
    targets = [t for board in boards for panel in board["panels"] for t in panel["targets"] if t.get("exemplar")]
    assert len(targets) >= 2
    for target in targets:

        def traces(expr: str = _filled(target["expr"])) -> set[str]:
            span = {"query": expr, "start": time.time() - 300, "end": time.time() + 5}
            found = prometheus.ask("query_exemplars", span)
            return {exemplar["labels"]["trace_id"] for series in found for exemplar in series["exemplars"]}

        assert all(re.fullmatch(r"[0-9a-f]{32}", trace) for trace in until(traces, 90, target["expr"]))


def test_the_tenant_variable_lists_the_tenants(prometheus: Prometheus, generate: ModuleType) -> None:
    [variable] = [v for v in generate.boards()["tenant.json"]["templating"]["list"] if v["name"] == "tenant"]
    parts = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
    assert parts is not None
    series = until(lambda: prometheus.ask("series", {"match[]": parts[1]}), 60, parts[1])
    assert len({found[parts[2]] for found in series}) > 1
