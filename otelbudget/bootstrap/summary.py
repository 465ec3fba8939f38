"""`Facts`: what is switched on, in words, for the log, the command line and whoever asks."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Facts"]


@dataclass(frozen=True)
class Facts:
    """What is switched on.

    Attributes:
        budgets: Where budgets come from.
        enforces: What refuses calls.
        observes: What is seen without being refused; empty if nothing.
        spans: Where spans go.
        metrics: Where metrics go.
        metrics_url: The page to scrape, or None.
        logs: Where events go as log records; empty if they are on spans only.
    """

    budgets: str
    enforces: str
    observes: str
    spans: str
    metrics: str
    metrics_url: str | None
    logs: str = ""

    def __str__(self) -> str:
        observes = f"; only observed: {self.observes}" if self.observes else ""
        logs = f"; log records of events go to {self.logs}" if self.logs else ""
        return (
            f"budgets: {self.budgets}; enforced by: {self.enforces}{observes};"
            f" spans go to {self.spans}; metrics go to {self.metrics}{logs}"
        )
