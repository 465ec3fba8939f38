"""Providers' own caps: an answer that says, with status 200 too, that one of these has stopped the call.

Nothing was made, so nothing is charged but the step. OpenRouter says ``limit_source``, see its documentation of errors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from otelbudget.model.reported import get

_NAMES: Final = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_error", "budget_reached"})
_PAYMENT_REQUIRED: Final = 402


def is_cap(error: object) -> bool:
    """Whether an error, as a provider has it in a body or an event, is its own cap."""
    if not isinstance(error, Mapping):
        return False
    said = {str(error.get(key)) for key in ("type", "code", "status")}
    asked = str(_PAYMENT_REQUIRED) in said or get(error.get("metadata"), "limit_source") is not None
    return asked or not _NAMES.isdisjoint(said)


def in_event(event: Mapping[str, Any]) -> bool:
    """Whether an event of a stream is that."""
    error = event.get("error") or get(event.get("response"), "error")
    return is_cap(error) if error else event.get("type") == "error" and is_cap(event)


def in_body(body: bytes | bytearray) -> bool:
    """Whether a whole answer in JSON is that."""
    try:
        return is_cap(get(json.loads(body), "error"))
    except ValueError:
        return False
