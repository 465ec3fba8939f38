"""A provider that plays what a test prescribes: `Provider`, over all endpoints that the guard counts."""

from __future__ import annotations

from provider.script import Reply
from provider.server import Provider

__all__ = ["Provider", "Reply"]
