"""Quotas for code that makes its own calls: `QuotaService`, what it takes, reports and holds."""

from __future__ import annotations

from otelbudget.quota.hold import QuotaReservation
from otelbudget.quota.service import QuotaService
from otelbudget.quota.usage import QuotaLine, QuotaUsage

__all__ = ["QuotaLine", "QuotaReservation", "QuotaService", "QuotaUsage"]
