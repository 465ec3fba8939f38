"""Quotas for code that makes its own calls: `QuotaService`, and what it reports."""

from __future__ import annotations

from otelbudget.quota.service import QuotaService
from otelbudget.quota.values import QuotaLine, QuotaUsage

__all__ = ["QuotaLine", "QuotaService", "QuotaUsage"]
