"""How Alertmanager makes one page of one problem; written by `generate.py`."""

from __future__ import annotations

from typing import Any

import queries

Json = dict[str, Any]


def alertmanager() -> Json:
    """One problem is one page: what follows from another alert is silent while that fires."""
    of_a_tenant = ("QuotaExhausted", "Quota95", "Quota80", "QuotaExhaustsSoon", "BurnFast", "DenialSpike", "RetryLoop")
    of_the_store = ("FailOpen", "ChecksSlow", "DenialSpike", "RetryLoop", "TenantBlocked")
    return {
        "route": {
            "receiver": "nobody",
            "group_by": ["tenant", "store"],
            "group_wait": "15s",
            "repeat_interval": "4h",
            "routes": [{"matchers": ['severity="critical"'], "receiver": "on-call"}],
        },
        "receivers": [{"name": "nobody"}, {"name": "on-call"}],
        "inhibit_rules": [
            _silences("TenantBlocked", of_a_tenant, ["tenant"]),
            _silences("QuotaExhausted", ("QuotaExhaustsSoon", "BurnFast"), queries.WINDOW.split(", ")),
            _silences("StoreDown", of_the_store, []),
            _silences("RetryLoop", ("DenialSpike",), ["tenant"]),
        ],
    }


def _silences(name: str, others: tuple[str, ...], equal: list[str]) -> Json:
    targets = "|".join(f"Otelbudget{other}" for other in others)
    return {
        "source_matchers": [f'alertname="Otelbudget{name}"'],
        "target_matchers": [f'alertname=~"{targets}"'],
        "equal": equal,
    }
