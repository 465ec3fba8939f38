"""Windows: which stretch of time an instant lies in, and when it ends. Pure: the instant is passed in.

Days, weeks and months begin at a local time of day, so a day has 23 or 25 hours where clocks change. Hours and minutes
follow the clock on the wall too: one that comes twice is two windows, and where clocks move by half an hour, what is
left of the hour is a window of its own. The windows of one specification follow each other without gaps.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from math import floor
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from otelbudget.errors import ConfigError

CALENDAR: Final = ("minute", "hour", "day", "week", "month")
_TIMED: Final = ("day", "week", "month")
_FIXED: Final = {"minute": 60, "hour": 3600}
#: A rolling window forgets in steps of this fraction of it, so an amount counts for up to 1/60 longer than it should,
#: and never shorter.
BUCKETS: Final = 60

_AT: Final = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]")
_ROLLING: Final = re.compile(r"rolling ([0-9]+)(s|m|h|d)")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LONGEST_ROLLING_S: Final = 366 * 86_400
_DAY: Final = timedelta(days=1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Window(NamedTuple):
    """A stretch of time that a quota is counted in, in Unix seconds; the end is no longer part of it. Infinite for a
    lifetime and a rolling window. A new one has a new *key*, such as ``2026-11-24``."""

    key: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class WindowSpec:
    """Which windows a quota is counted in.

    Args:
        per: ``run`` (each root run on its own), ``lifetime``, ``minute``, ``hour``, ``day``, ``week``, ``month``, or
            ``rolling 24h`` with any whole number of s, m, h or d: the time up to now.
        timezone: IANA name of the zone whose clock calendar windows follow.
        at: Local time of day, ``HH:MM``, at which a day, a week (on Monday) or a month (on the 1st) begins; None is
            midnight. As in RFC 5545: where it comes twice, the first counts; where clocks skip it, the window begins
            as much later as they skip (at 03:30 for 02:30, when 02:00 becomes 03:00).

    Raises:
        ConfigError: One of them is not understood.
    """

    per: str = "day"
    timezone: str = "UTC"
    at: str | None = None
    #: The length of a rolling window in seconds; None for the others.
    rolling_s: int | None = field(init=False, repr=False, compare=False)
    tz: tzinfo = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rolling_s", _rolling_s(self.per))
        object.__setattr__(self, "tz", zone(self.timezone))
        if self.at is not None:
            if not isinstance(self.at, str) or not _AT.fullmatch(self.at):
                raise ConfigError(f"at must be a time of day such as '06:00', got {self.at!r}")
            if self.per not in _TIMED:
                raise ConfigError(f"at goes with per day, week or month, not with per {self.per}")
        if self.per not in CALENDAR and self.timezone != "UTC":
            raise ConfigError(f"timezone goes with windows of the calendar, not with per {self.per}")

    def __str__(self) -> str:
        begin = "" if self.at is None and self.timezone == "UTC" else f" from {self.at or '00:00'} {self.timezone}"
        return f"per {self.per}{begin}"


def _rolling_s(per: object) -> int | None:
    if per in ("run", "lifetime", *CALENDAR):
        return None
    found = _ROLLING.fullmatch(per) if isinstance(per, str) else None
    seconds = 0 if found is None or len(found[1]) > 9 else int(found[1]) * _SECONDS[found[2]]
    if not 0 < seconds <= _LONGEST_ROLLING_S:
        raise ConfigError(
            f"per must be run, lifetime, minute, hour, day, week, month or 'rolling 24h' (1s to 366d), got {per!r}"
        )
    return seconds


def zone(name: str) -> tzinfo:
    """The IANA time zone *name*; ConfigError if there is none, or the machine has no zone files."""
    if name == "UTC":  # also where the system ships no zone files
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError, TypeError) as error:
        wrong = f"timezone must be an IANA name such as 'Europe/Berlin' or 'UTC', got {name!r}"
        if isinstance(error, ZoneInfoNotFoundError):  # some systems ship only part of the names, or none
            wrong += "; if that name is right, `pip install tzdata` brings all of them"
        raise ConfigError(wrong) from error


def window_at(spec: WindowSpec, now_s: float) -> Window:
    """The window of *spec* that *now_s* (Unix seconds) lies in.

    Raises:
        ValueError: The window is not wholly between the years 1 and 9999.
    """
    if spec.per not in CALENDAR:
        return Window(spec.per, float("-inf"), float("inf"))
    try:
        whole_s = floor(now_s)  # every window begins and ends on a whole second
        return _fixed(spec, whole_s) if spec.per in _FIXED else _timed(spec, whole_s)
    except OverflowError as error:
        raise ValueError(f"the clock says {now_s} s, and no calendar has a {spec.per} around that") from error


def bucket(length_s: int, now_s: float) -> int:
    """The number of the bucket of a rolling window that *now_s* lies in; each is 1/60 of it long.

    At bucket n, what lies in n - 60 and later counts: all that is younger than the window, and up to 1/60 and a
    millisecond more.
    """
    return floor(now_s * 1000) * BUCKETS // (length_s * 1000)  # in whole numbers: no rounding loses an amount early


def _fixed(spec: WindowSpec, now_s: int) -> Window:
    length_s = _FIXED[spec.per]
    offset_s = _offset_s(spec, now_s)
    start_s = now_s - (now_s + offset_s) % length_s
    # Clocks that move within the hour begin another one: the first second that has this offset, or another again.
    past, coming = range(start_s, now_s), range(now_s, start_s + length_s)
    if _offset_s(spec, start_s) != offset_s:
        start_s = past[0] + bisect_left(past, True, key=lambda s: _offset_s(spec, s) == offset_s)
    end_s = coming[-1] + 1
    if _offset_s(spec, end_s - 1) != offset_s:
        end_s = now_s + bisect_left(coming, True, key=lambda s: _offset_s(spec, s) != offset_s)
    return Window(_local(spec, start_s).isoformat(timespec="minutes"), float(start_s), float(end_s))


def _offset_s(spec: WindowSpec, at_s: int) -> int:
    offset = _local(spec, at_s).utcoffset()
    return 0 if offset is None else offset // timedelta(seconds=1)


def _local(spec: WindowSpec, at_s: int) -> datetime:
    return (_EPOCH + timedelta(seconds=at_s)).astimezone(spec.tz)  # fromtimestamp() refuses the past on Windows


def _timed(spec: WindowSpec, now_s: int) -> Window:
    # Clocks set back over midnight give a date that is over already, so the day after is tried first.
    first = _first_day(spec, _local(spec, now_s).date() + _DAY)
    while (start_s := _begin_s(spec, first)) > now_s:
        first = _first_day(spec, first - _DAY)
    return Window(first.isoformat(), start_s, _begin_s(spec, _next_day(spec, first)))


def _first_day(spec: WindowSpec, day: date) -> date:
    if spec.per == "week":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if spec.per == "month" else day


def _next_day(spec: WindowSpec, first: date) -> date:
    if spec.per == "month":
        return (first + timedelta(days=31)).replace(day=1)
    return first + timedelta(days=7 if spec.per == "week" else 1)


def _begin_s(spec: WindowSpec, day: date) -> float:
    # A naive local time gets its own offset, which differs from now's on the days when clocks change.
    at = time.min if spec.at is None else time.fromisoformat(spec.at)
    return datetime.combine(day, at, spec.tz).timestamp()
