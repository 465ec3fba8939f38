"""Building blocks of a dashboard: panels as Grafana's classic JSON.

Plain dictionaries on purpose. The boards need four kinds of panel, and what is written here is what Grafana reads and
what a diff shows; a typed builder library would be one more dependency for the tests, and they run every query against
a real Prometheus anyway.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Json = dict[str, Any]

DATASOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}
TEMPO: Json = {"type": "tempo", "uid": "${tempo}"}

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

#: Shows a dash for 0.
NONE: Json = {"type": "value", "options": {"0": {"text": "-", "index": 0}}}


def query(expr: str, legend: str = "__auto", **options: Any) -> Json:
    """A query over the time range shown."""
    return {"datasource": DATASOURCE, "expr": expr, "legendFormat": legend, "range": True, "instant": False, **options}


def instant(expr: str, legend: str = "__auto", **options: Any) -> Json:
    """A query that gives one value per series, at the end of the range."""
    return query(expr, legend, range=False, instant=True, **options)


def traces(query: str, *, spans: bool = False, **options: Any) -> Json:
    """What Tempo finds with a TraceQL query: traces, or with *spans* the spans and what is selected of them."""
    shown = {"tableType": "spans" if spans else "traces", "limit": 50, "spss": 20}
    return {"datasource": TEMPO, "queryType": "traceql", "query": query, **shown, **options}


def stat(
    title: str,
    description: str,
    target: Json,
    *,
    unit: str,
    decimals: int | None = None,
    no_value: str = "0",
    loud_from: float | None = None,
    loud_below: float | None = None,
    words: Mapping[str, str] | None = None,
    name: bool = False,
    since: str | None = None,
) -> Json:
    """One number.

    Args:
        loud_from, loud_below: It turns orange from there on, or below that.
        words: ``{value: what is shown instead}``; 0 turns orange.
        name: The legend is shown too.
        since: A time range of its own, such as ``now/d``.
    """
    steps: list[Json] = [{"color": "text" if loud_below is None else "orange", "value": None}]
    if loud_from is not None:
        steps.append({"color": "orange", "value": loud_from})
    if loud_below is not None:
        steps.append({"color": "text", "value": loud_below})
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
        "textMode": "value_and_name" if name else "value",
        "wideLayout": not name,
    }
    if name:
        options["text"] = {"titleSize": 14, "valueSize": 32}
    if words:
        shown = {value: {"text": word, "index": i} for i, (value, word) in enumerate(words.items())}
        shown["0"]["color"] = "orange"
        defaults["mappings"] = [{"type": "value", "options": shown}]
    panel = _panel("stat", title, description, [target], defaults, options)
    return panel | {"timeFrom": since} if since else panel


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
        "namePlacement": "top",
        "showUnfilled": True,
        "sizing": "manual",
        "minVizHeight": 12,
        "maxVizHeight": 28,
        "text": {"titleSize": 13, "valueSize": 13},
        "legend": {"showLegend": False, "displayMode": "list", "placement": "bottom", "calcs": []},
    }
    return _panel("bargauge", title, description, [target], defaults, options, _coloured(colours))


def column(name: str, width: int | None = None, **options: Any) -> Json:
    """How a column of a table is called, and shown."""
    return {"displayName": name} | ({"custom.width": width} if width else {}) | options


def share_column(name: str, width: int | None = None) -> Json:
    """A column of shares of a limit, as bars."""
    cell = {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}
    colour = {"thresholds": FULL, "color": {"mode": "thresholds"}, "custom.cellOptions": cell}
    return column(name, width, unit="percentunit", decimals=1, min=0, max=1, **colour)


def link_to(board: str, title: str, variable: str, value: str = "${__value.raw}") -> Json:
    """A link to another board, with a *value*, which is that of the cell, as a variable of it."""
    return {"title": title, "url": f"/d/otelbudget-{board}?var-{variable}={value}&${{__url_time_range}}"}


def found(title: str, description: str, query: str, links: Mapping[str, Json], *, spans: bool = False) -> Json:
    """What Tempo finds, as a table with *links* of its columns."""
    options = {"showHeader": True, "cellHeight": "sm"}
    overrides = [
        {"matcher": {"id": "byName", "options": name}, "properties": [{"id": "links", "value": [link]}]}
        for name, link in links.items()
    ]
    panel = _panel("table", title, description, [traces(query, spans=spans)], {}, options, overrides)
    return panel | {"datasource": TEMPO}


def trace(title: str, description: str, query: str) -> Json:
    """All spans of the trace with an id."""
    return _panel("traces", title, description, [traces(query)], {}, {}) | {"datasource": TEMPO}


def table(title: str, description: str, targets: Sequence[Json], columns: Mapping[str, Json], *, sort_by: str) -> Json:
    """Rows joined from instant queries by their labels.

    Args:
        targets: Their values are the fields ``Value #A``, ``Value #B``, ...; a single one's is ``Value``.
        columns: ``{field: its options}`` in the order shown, made by `column`. Other fields are hidden.
        sort_by: Name shown of the column whose greatest values come first.
    """
    overrides = [
        {
            "matcher": {"id": "byName", "options": field},
            "properties": [{"id": key, "value": value} for key, value in column.items()],
        }
        for field, column in columns.items()
    ]
    shown = {"include": {"names": list(columns)}}
    order = {field: i for i, field in enumerate(columns)}
    organize = {"excludeByName": {}, "indexByName": order, "renameByName": {}}
    options = {"showHeader": True, "cellHeight": "sm", "sortBy": [{"displayName": sort_by, "desc": True}]}
    panel = _panel("table", title, description, [{**t, "format": "table"} for t in targets], {}, options, overrides)
    steps = {"merge": {}, "filterFieldsByName": shown, "organize": organize}
    panel["transformations"] = [{"id": name, "options": step} for name, step in steps.items()]
    return panel


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
