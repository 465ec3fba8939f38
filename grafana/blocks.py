"""Building blocks of a dashboard: panels as Grafana's classic JSON, and a grid that places them.

Plain dictionaries on purpose. The boards need four kinds of panel, and what is written here is what Grafana reads and
what a diff shows; a typed builder library would be one more dependency for the tests, and they run every query against
a real Prometheus anyway.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Json = dict[str, Any]

DATASOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}
#: Classic JSON that Grafana 13 writes itself.
SCHEMA_VERSION = 42

#: One colour for one word on every board: quiet where all is well, loud where somebody was stopped.
COLOURS = {
    "allow": "green",
    "warn": "yellow",
    "deny": "red",
    "completed": "green",
    "exhausted": "orange",
    "error": "red",
    "input": "blue",
    "output": "purple",
}


#: Green to red for the used share of a limit.
FULL = {
    "mode": "absolute",
    "steps": [
        {"color": "green", "value": None},
        {"color": "yellow", "value": 0.8},
        {"color": "orange", "value": 0.95},
        {"color": "red", "value": 1},
    ],
}


def query(expr: str, legend: str = "__auto", **options: Any) -> Json:
    """A query over the time range shown."""
    return {"datasource": DATASOURCE, "expr": expr, "legendFormat": legend, "range": True, "instant": False, **options}


def instant(expr: str, legend: str = "__auto", **options: Any) -> Json:
    """A query that gives one value per series, at the end of the range."""
    return query(expr, legend, range=False, instant=True, **options)


def stat(
    title: str,
    description: str,
    target: Json,
    *,
    unit: str,
    decimals: int | None = None,
    no_value: str = "0",
    loud_from: float | None = None,
) -> Json:
    """One number; with *loud_from* it turns orange from there on."""
    steps: list[Json] = [{"color": "text", "value": None}]
    if loud_from is not None:
        steps.append({"color": "orange", "value": loud_from})
    defaults = {
        "unit": unit,
        "decimals": decimals,
        "noValue": no_value,
        "color": {"mode": "thresholds"},
        "thresholds": _thresholds(steps),
    }
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value",
        "graphMode": "none",
        "justifyMode": "auto",
        "textMode": "value",
        "wideLayout": True,
    }
    return _panel("stat", title, description, [target], defaults, options)


def timeseries(
    title: str,
    description: str,
    targets: Sequence[Json],
    *,
    unit: str,
    style: str = "line",
    stacked: bool = False,
    line_at: float | None = None,
    colours: Sequence[str] = (),
) -> Json:
    """Lines or bars over time, with a legend that names the last value; *line_at* draws a dashed line."""
    custom: Json = {
        "drawStyle": style,
        "lineWidth": 1 if style == "bars" or stacked else 2,
        "fillOpacity": 60 if style == "bars" else 25 if stacked else 8,
        "showPoints": "never",
        "spanNulls": 60_000,
        "axisSoftMin": 0,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
    }
    defaults: Json = {"unit": unit, "color": {"mode": "palette-classic"}, "custom": custom}
    if line_at is not None:
        defaults["thresholds"] = _thresholds([{"color": "text", "value": None}, {"color": "text", "value": line_at}])
        custom |= {"thresholdsStyle": {"mode": "dashed"}, "axisSoftMax": line_at * 1.2}
    options = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return _panel("timeseries", title, description, targets, defaults, options, _coloured(colours))


def bars(
    title: str,
    description: str,
    target: Json,
    *,
    unit: str,
    decimals: int | None = None,
    colours: Sequence[str] = (),
    shares: bool = False,
) -> Json:
    """One horizontal bar per series of an instant query; with *shares* of a limit, which is the bar's full length."""
    defaults = {"unit": unit, "min": 0, "decimals": decimals, "color": {"mode": "fixed", "fixedColor": "blue"}}
    if shares:
        defaults |= {"max": 1, "color": {"mode": "thresholds"}, "thresholds": FULL}
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "orientation": "horizontal",
        "displayMode": "basic",
        "valueMode": "text",
        "namePlacement": "left",
        "showUnfilled": True,
        "sizing": "manual",
        "minVizHeight": 12,
        "maxVizHeight": 28,
        "text": {"titleSize": 13, "valueSize": 13},
        "legend": {"showLegend": False, "displayMode": "list", "placement": "bottom", "calcs": []},
    }
    return _panel("bargauge", title, description, [target], defaults, options, _coloured(colours))


def table(title: str, description: str, targets: Sequence[Json], columns: Mapping[str, Json], *, sort_by: str) -> Json:
    """Rows joined from instant queries by their labels.

    Args:
        targets: Their values are the fields ``Value #A``, ``Value #B``, ...
        columns: ``{field: its options}`` in the order shown, with its ``displayName``.
        sort_by: Name shown of the column whose greatest values come first.
    """
    overrides = [
        {
            "matcher": {"id": "byName", "options": field},
            "properties": [{"id": key, "value": value} for key, value in column.items()],
        }
        for field, column in columns.items()
    ]
    order = {field: i for i, field in enumerate(columns)}
    organize = {"excludeByName": {"Time": True}, "indexByName": order, "renameByName": {}}
    options = {"showHeader": True, "cellHeight": "sm", "sortBy": [{"displayName": sort_by, "desc": True}]}
    panel = _panel("table", title, description, [{**t, "format": "table"} for t in targets], {}, options, overrides)
    panel["transformations"] = [{"id": "merge", "options": {}}, {"id": "organize", "options": organize}]
    return panel


def dashboard(uid: str, title: str, description: str, rows: Iterable[tuple[int, Sequence[tuple[int, Json]]]]) -> Json:
    """A dashboard of *rows*: (height, [(width, panel), ...]) on a grid 24 wide, from the top."""
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": ["otelbudget"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,
        "timezone": "browser",
        "time": {"from": "now-15m", "to": "now"},
        "refresh": "10s",
        "annotations": {"list": []},
        "links": [],
        "templating": {"list": [_datasource_variable(), _tenant_variable()]},
        "panels": list(_placed(rows)),
    }


def _placed(rows: Iterable[tuple[int, Sequence[tuple[int, Json]]]]) -> Iterable[Json]:
    number = y = 0
    for height, panels in rows:
        x = 0
        for width, panel in panels:
            number += 1
            yield {"id": number, "gridPos": {"x": x, "y": y, "w": width, "h": height}, **panel}
            x += width
        y += height


def _panel(
    kind: str,
    title: str,
    description: str,
    targets: Sequence[Json],
    defaults: Json,
    options: Json,
    overrides: Sequence[Json] = (),
) -> Json:
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": DATASOURCE,
        "targets": [{"refId": chr(ord("A") + i), **target} for i, target in enumerate(targets)],
        "fieldConfig": {"defaults": defaults, "overrides": list(overrides)},
        "options": options,
        # A shorter step than this says more about the scrapes than about the traffic.
        "interval": "15s",
    }


def _thresholds(steps: Sequence[Json]) -> Json:
    return {"mode": "absolute", "steps": list(steps)}


def _coloured(words: Sequence[str]) -> list[Json]:
    """The same colour for the same word in every panel."""
    return [
        {
            "matcher": {"id": "byName", "options": word},
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": COLOURS[word]}}],
        }
        for word in words
    ]


def _datasource_variable() -> Json:
    return {"type": "datasource", "name": "datasource", "label": "Prometheus", "query": "prometheus", "hide": 0}


def _tenant_variable() -> Json:
    return {
        "type": "query",
        "name": "tenant",
        "label": "Tenant",
        "datasource": DATASOURCE,
        "query": {"query": "label_values(otelbudget_runs_active, tenant)", "refId": "tenant"},
        "definition": "label_values(otelbudget_runs_active, tenant)",
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
        "hide": 0,
    }
