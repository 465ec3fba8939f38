"""The JSON Schema (draft 07) of a ``budgets.yaml``, for editors; made from the table of fields.

The package ships it as ``otelbudget/config/budgets.schema.json``. Whatever the loader takes is valid.
"""

from __future__ import annotations

import json
from typing import Any

from otelbudget.config.fields import BUDGET, FILE, QUOTA


def schema() -> dict[str, Any]:
    """The schema, as it is made from the table of fields."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$comment": "`otelbudget validate` finds more: names that mean no budget, sums, and what goes together.",
        "title": "budgets.yaml",
        "description": "Budgets, quotas and prices of otelbudget. Amounts are written as 50k, $2.50, 30s, 80%.",
        **FILE.whole(),
        "definitions": {"budget": BUDGET.whole(), "quota": QUOTA.whole()},
    }


def schema_text() -> str:
    """The schema as the contents of a file."""
    return json.dumps(schema(), indent=2) + "\n"
