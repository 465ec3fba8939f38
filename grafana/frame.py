"""A whole dashboard: its panels on a grid, its variables, what is drawn over all of its graphs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from blocks import DATASOURCE, Json

#: Classic JSON that Grafana 13 writes itself.
SCHEMA_VERSION = 42
#: (height, [(width, panel), ...]); a row is 24 wide.
Row = tuple[int, Sequence[tuple[int, Json]]]


def dashboard(name: str, description: str, rows: Iterable[Row], variables: Sequence[Json], *, since: str) -> Json:
    """The dashboard *name*, whose panels begin *since* then."""
    return {
        "uid": f"otelbudget-{name.lower()}",
        "title": f"otelbudget / {name}",
        "description": description,
        "tags": ["otelbudget"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,
        "timezone": "browser",
        "time": {"from": since, "to": "now"},
        "refresh": "10s",
        "annotations": {"list": [_alerts()]},
        "links": [_boards()],
        "templating": {"list": [_datasource("datasource", "Prometheus"), _datasource("tempo", "Tempo"), *variables]},
        "panels": list(_placed(rows)),
    }


def tenant_variable() -> Json:
    """One of the tenants."""
    query = "label_values(otelbudget_runs_active, tenant)"
    return {
        "type": "query",
        "name": "tenant",
        "label": "Tenant",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": "tenant"},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": False,
        "includeAll": False,
        "hide": 0,
    }


def text_variable(name: str, label: str) -> Json:
    """What somebody types, or a link brings."""
    empty = {"text": "", "value": ""}
    return {
        "type": "textbox",
        "name": name,
        "label": label,
        "query": "",
        "current": empty,
        "options": [empty],
        "hide": 0,
    }


def _datasource(name: str, kind: str) -> Json:
    return {"type": "datasource", "name": name, "label": kind, "query": kind.lower(), "hide": 0}


def _alerts() -> Json:
    """Where an alert of ours was firing."""
    return {
        "name": "Alerts",
        "datasource": DATASOURCE,
        "enable": True,
        "iconColor": "red",
        "expr": 'ALERTS{alertname=~"Otelbudget.*", alertstate="firing"}',
        "titleFormat": "{{alertname}}",
        "textFormat": "{{tenant}} {{budget}}",
        "step": "30s",
    }


def _boards() -> Json:
    return {
        "type": "dashboards",
        "title": "otelbudget",
        "tags": ["otelbudget"],
        "asDropdown": False,
        "includeVars": False,
        "keepTime": True,
    }


def _placed(rows: Iterable[Row]) -> Iterable[Json]:
    number = y = 0
    for height, panels in rows:
        x = 0
        for width, panel in panels:
            number += 1
            yield {"id": number, "gridPos": {"x": x, "y": y, "w": width, "h": height}, **panel}
            x += width
        y += height
