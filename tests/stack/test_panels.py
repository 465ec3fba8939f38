"""Every query of the Overview board against a real Prometheus that scrapes the demo."""

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

# The first run on a machine builds Prometheus.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

#: What Grafana puts in for its variables.
VARIABLES = {"$tenant": ".*", "$__rate_interval": "1m", "$__range": "5m", "$__interval": "1s"}
#: Panels that may be empty on a healthy system, with the reason.
MAY_BE_EMPTY = {"Next exhaustion": "at the end of an hour, all quotas of the demo begin anew before they are used up"}


@pytest.fixture(scope="module")
def prometheus(
    has_prometheus: None, scrape_config: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """A Prometheus that scrapes a demo at work."""
    pytest.importorskip("openai", reason="the demo needs the openai client")
    directory = tmp_path_factory.mktemp("demo")
    with serving(directory) as port, running(scrape_config.format(port=port), directory) as prometheus:
        yield prometheus


def _filled(expr: str) -> str:
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    assert "$" not in expr.replace('"$1"', ""), expr  # what label_replace found
    return expr


def _asked(prometheus: Prometheus, target: dict[str, Any]) -> list[float]:
    """The numbers that a query of a panel gives now."""
    expr = _filled(target["expr"])
    if target["instant"]:
        result = prometheus.query(expr)
    else:
        now = time.time()
        span = {"query": expr, "start": now - 60, "end": now, "step": 1}
        result = prometheus.ask("query_range", span)["result"]
    numbers = [float(value) for series in result for _, value in series.get("values") or [series["value"]]]
    return [number for number in numbers if not math.isnan(number)]


def test_every_panel_shows_data(prometheus: Prometheus, board: Any) -> None:
    for panel in board["panels"]:
        for target in panel["targets"]:
            if panel["title"] in MAY_BE_EMPTY:
                _asked(prometheus, target)
            else:
                what = f"{panel['title']} {target['expr']}"
                until(lambda target=target: _asked(prometheus, target), 90, what)


def test_panels_with_exemplars_find_traces(prometheus: Prometheus, board: Any) -> None:
    targets = [target for panel in board["panels"] for target in panel["targets"] if target.get("exemplar")]
    assert targets
    for target in targets:

        def traces(expr: str = _filled(target["expr"])) -> set[str]:
            span = {"query": expr, "start": time.time() - 300, "end": time.time() + 5}
            found = prometheus.ask("query_exemplars", span)
            return {exemplar["labels"]["trace_id"] for series in found for exemplar in series["exemplars"]}

        assert all(re.fullmatch(r"[0-9a-f]{32}", trace) for trace in until(traces, 90, target["expr"]))


def test_the_tenant_variable_lists_the_tenants(prometheus: Prometheus, board: Any) -> None:
    [variable] = [v for v in board["templating"]["list"] if v["name"] == "tenant"]
    parts = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
    assert parts is not None
    series = until(lambda: prometheus.ask("series", {"match[]": parts[1]}), 60, parts[1])
    assert len({found[parts[2]] for found in series}) > 1
