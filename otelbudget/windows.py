"""Calendar windows: which one an instant lies in and when it ends. Pure: the instant is passed in.

A day begins and ends at local midnight, so it has 23 or 25 hours where clocks change.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from otelbudget.errors import ConfigError

__all__ = ["Window", "day_of", "zone"]


class Window(NamedTuple):
    """A stretch of time that a quota is counted in.

    Attributes:
        key: Its name, such as ``2026-11-24``; a new window has a new key.
        start_s, end_s: Unix seconds; the end is no longer part of it.
    """

    key: str
    start_s: float
    end_s: float


def zone(name: str) -> tzinfo:
    """The IANA time zone *name*; ConfigError if there is none."""
    if name == "UTC":  # also where the system ships no zone files
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError, TypeError) as error:
        raise ConfigError(f"timezone must be an IANA name such as 'Europe/Berlin' or 'UTC', got {name!r}") from error


def day_of(now_s: float, timezone: tzinfo) -> Window:
    """The calendar day that *now_s* (Unix seconds) lies in, in *timezone*."""
    local = datetime.fromtimestamp(now_s, timezone)
    # A naive midnight gets its own offset, which differs from now's on the days when clocks change.
    start = datetime(local.year, local.month, local.day, tzinfo=timezone)
    following = local.date() + timedelta(days=1)
    end = datetime(following.year, following.month, following.day, tzinfo=timezone)
    return Window(local.date().isoformat(), start.timestamp(), end.timestamp())
