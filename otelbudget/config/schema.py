"""The JSON Schema (draft 07) of a ``budgets.yaml``, for editors; made from the table of fields.

The package ships it as ``otelbudget/config/budgets.schema.json``. Whatever the loader takes is valid, and whatever is
valid the loader takes, except for `BEYOND`.
"""

from __future__ import annotations

import json
from typing import Any, Final

from otelbudget.config.fields import FILE

#: All that the loader refuses and a schema can't, in documents that YAML and JSON have both.
BEYOND: Final = (
    "two quotas of one list with one name",
    "the name of a budget that there is not",
    "a time zone that this machine does not know",
    "what a text with a ${VARIABLE} or $$ becomes",
    "sums: reserve_for above 100 %, more in wrap_up than the limit allows",
    "what a text comes to: too much, as in 9e99, '10000000B' or rolling 367d, or no whole number, as in '1.5'",
    "a limit left empty: no limit has to be said, with null",
    "plain numbers that YAML 1.1 and 1.2 read differently or that are not written as amounts are: 010, 0x1F, 0o17, "
    "5., -0, .nan, more than 30 characters",
    "more than 100,000 values, more than 4,096 characters in one, or 40 mappings merged one into the other",
    "a limit above 0 that is less than a nano-USD or a nanosecond",
    "on_unpriced: estimate without any prices",
)


def schema() -> dict[str, Any]:
    """The schema, as it is made from the table of fields."""
    shared: dict[str, Any] = {}
    whole = FILE.schema(shared)
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$comment": f"What only `otelbudget validate` finds: {'; '.join(BEYOND)}.",
        "title": "budgets.yaml",
        "description": "Budgets, quotas and prices of otelbudget. Amounts are written as 50k, $2.50, 30s, 80%.",
        **whole,
        "definitions": shared,
    }


def schema_text() -> str:
    """The schema as the contents of a file."""
    return json.dumps(schema(), indent=2) + "\n"
