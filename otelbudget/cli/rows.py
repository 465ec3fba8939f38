"""The demo's table: what every tenant's run has used of what it may use, and what became of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from otelbudget.cli.screen import Cell, Mark
from otelbudget.demo.load import stopped_by

if TYPE_CHECKING:
    from otelbudget.demo.load import Row
    from otelbudget.runs.receipt import Receipt

__all__ = ["HEAD", "cells", "ending", "in_words"]

#: A title that ends in a space has its column aligned right.
HEAD: Final = ("Tenant", "Budget", "Steps ", "Tokens ", "Cost ", "Seconds ", "Refused ", "")

_EMPTY: Final[list[Cell]] = [("", "plain")] * (len(HEAD) - 2)
_NEAR: Final = 0.8
_BAR: Final = 10
_NAMES: Final = {
    "cost_usd": "money",
    "seconds": "time",
    "tool_calls": "tool calls",
    "nested_tool_calls": "nested tools",
    "frozen": "demo's end",
}


def cells(row: Row) -> list[Cell]:
    """One line of the table."""
    receipt = row.receipt()
    if receipt is None:
        return [(row.job.tenant, "plain"), *_EMPTY, ("waiting", "dim")]
    refused: Cell = (str(receipt.denials) if receipt.denials else "", "bad")
    amounts = [_amount(receipt, resource) for resource in ("steps", "tokens", "cost_usd", "seconds")]
    return [(row.job.tenant, "plain"), (receipt.budget or "default", "dim"), *amounts, refused, _state(row, receipt)]


def in_words(cause: str) -> str:
    """What stopped a run, as people say it."""
    return _NAMES.get(cause, cause)


def ending(row: Row) -> str:
    """How a run ended, in a line for screens without a live table."""
    receipt = row.receipt()
    if row.error is not None or receipt is None:
        return f"failed: {row.error}"
    used = ", ".join(f"{_text(r, receipt.used[r])} {r}" for r in ("steps", "tokens"))
    spent = f"{used}, {_text('cost_usd', receipt.used['cost_usd'])}, {receipt.used['seconds']:.1f} s"
    return f"{_outcome(receipt)} ({spent})"


def _amount(receipt: Receipt, resource: str) -> Cell:
    used, limit = receipt.used[resource], receipt.limits[resource]
    text = _text(resource, used) + ("" if limit is None else f"/{_limit(resource, limit)}")
    if receipt.resource == resource:
        return text, "bad"
    return text, "warn" if limit and used >= _NEAR * float(limit) else "plain"


def _limit(resource: str, value: Any) -> str:
    whole = resource == "tokens" and value >= 1000 and value % 1000 == 0
    return f"{value // 1000:,}k" if whole else _text(resource, value)


def _text(resource: str, value: Any) -> str:
    if resource == "cost_usd":
        whole, _, cents = f"{value:.4f}".partition(".")
        return f"${whole}.{cents.rstrip('0'):0<2}"
    return f"{value:.2f}".rstrip("0").rstrip(".") if resource == "seconds" else f"{value:,}"


def _state(row: Row, receipt: Receipt) -> Cell:
    if row.error is not None:
        return "failed", "bad"
    if receipt.reason is not None or not row.working:
        return _outcome(receipt), "bad" if receipt.reason else "good"
    return _bar(receipt)


def _outcome(receipt: Receipt) -> str:
    cause = stopped_by(receipt)
    return "answered" if cause is None else f"stopped: {in_words(cause)}"


def _bar(receipt: Receipt) -> Cell:
    """How much of the tightest limit is used."""
    limited = [(float(receipt.used[name]) / float(limit), name) for name, limit in receipt.limits.items() if limit]
    ratio = min(1.0, max(limited)[0]) if limited else 0.0
    filled = round(ratio * _BAR)
    mark: Mark = "warn" if ratio >= _NEAR else "good"
    return f"{'█' * filled}{'░' * (_BAR - filled)} {ratio:.0%}", mark
