"""A calendar day is the local one, also when clocks change."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from otelbudget import ConfigError
from otelbudget.windows import day_of, zone


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("now", "name", "key", "hours"),
    [
        ("2026-11-24T23:59:59", "UTC", "2026-11-24", 24),
        ("2026-11-25T00:00:00", "UTC", "2026-11-25", 24),
        ("2026-11-24T23:30:00", "Europe/Berlin", "2026-11-25", 24),
        ("2026-03-29T10:00:00", "Europe/Berlin", "2026-03-29", 23),
        ("2026-10-25T10:00:00", "Europe/Berlin", "2026-10-25", 25),
        ("2026-12-31T12:00:00", "Asia/Tokyo", "2026-12-31", 24),
        ("2026-12-31T15:00:00", "Asia/Tokyo", "2027-01-01", 24),
    ],
)
def test_a_day_has_its_zone_s_hours_and_name(now: str, name: str, key: str, hours: int) -> None:
    window = day_of(seconds(now), ZoneInfo(name))
    assert (window.key, (window.end_s - window.start_s) / 3600) == (key, hours)
    assert window.start_s <= seconds(now) < window.end_s


def test_the_end_of_a_day_is_the_start_of_the_next() -> None:
    first = day_of(seconds("2026-10-25T10:00:00"), ZoneInfo("Europe/Berlin"))
    assert day_of(first.end_s, ZoneInfo("Europe/Berlin")).start_s == first.end_s


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "../etc", None])
def test_an_unknown_zone_is_a_clear_error(name: str) -> None:
    with pytest.raises(ConfigError, match="IANA name"):
        zone(name)
