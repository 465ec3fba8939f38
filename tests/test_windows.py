"""Windows follow the clock on the wall, also when it is changed, and follow each other without a gap."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from otelbudget import ConfigError
from otelbudget.model.windows import Window, WindowSpec, window_at, zone


def seconds(text: str) -> float:
    """Unix seconds of *text*, which is UTC unless it has an offset."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def shown(window: Window, name: str = "UTC") -> tuple[str, str]:
    """Begin and end as the clocks of zone *name* show them."""
    begin, end = (datetime.fromtimestamp(s, zone(name)).isoformat() for s in (window.start_s, window.end_s))
    return begin, end


def hours(window: Window) -> float:
    return (window.end_s - window.start_s) / 3600


# --- the calendar in UTC


@pytest.mark.parametrize(
    ("per", "now", "key", "begin", "end"),
    [
        ("minute", "2026-11-24T09:30:59.999", "2026-11-24T09:30+00:00", "2026-11-24T09:30", "2026-11-24T09:31"),
        ("hour", "2026-11-24T09:30:59.999", "2026-11-24T09:00+00:00", "2026-11-24T09:00", "2026-11-24T10:00"),
        ("day", "2026-11-24T09:30:59.999", "2026-11-24", "2026-11-24T00:00", "2026-11-25T00:00"),
        ("week", "2026-11-24T09:30:59.999", "2026-11-23", "2026-11-23T00:00", "2026-11-30T00:00"),
        ("month", "2026-11-24T09:30:59.999", "2026-11-01", "2026-11-01T00:00", "2026-12-01T00:00"),
        ("minute", "2026-12-31T23:59:30", "2026-12-31T23:59+00:00", "2026-12-31T23:59", "2027-01-01T00:00"),
        ("day", "2026-12-31T23:59:30", "2026-12-31", "2026-12-31T00:00", "2027-01-01T00:00"),
        ("week", "2027-01-01T00:00", "2026-12-28", "2026-12-28T00:00", "2027-01-04T00:00"),
        ("week", "2026-11-29T23:59:59", "2026-11-23", "2026-11-23T00:00", "2026-11-30T00:00"),
        ("month", "2026-12-31T23:59:30", "2026-12-01", "2026-12-01T00:00", "2027-01-01T00:00"),
        ("month", "2028-02-29T12:00", "2028-02-01", "2028-02-01T00:00", "2028-03-01T00:00"),
        ("month", "2026-02-28T12:00", "2026-02-01", "2026-02-01T00:00", "2026-03-01T00:00"),
        ("day", "2028-02-28T23:59:59", "2028-02-28", "2028-02-28T00:00", "2028-02-29T00:00"),
        ("day", "2026-02-28T23:59:59", "2026-02-28", "2026-02-28T00:00", "2026-03-01T00:00"),
    ],
)
def test_a_calendar_window_begins_on_its_border_and_ends_at_the_next(
    per: str, now: str, key: str, begin: str, end: str
) -> None:
    assert window_at(WindowSpec(per), seconds(now)) == Window(key, seconds(begin), seconds(end))


@pytest.mark.parametrize("per", ["minute", "hour", "day", "week", "month"])
def test_the_border_belongs_to_the_new_window_and_the_last_instant_before_it_to_the_old(per: str) -> None:
    border = seconds("2027-03-01T00:00")  # a Monday and a first of the month
    new = window_at(WindowSpec(per), border)
    old = window_at(WindowSpec(per), border - 2**-22)
    assert new.start_s == border == old.end_s
    assert new.key != old.key


@pytest.mark.parametrize(
    ("per", "now_s", "key"),
    [
        ("minute", -0.5, "1969-12-31T23:59+00:00"),
        ("hour", -3600.0, "1969-12-31T23:00+00:00"),
        ("day", -1.0, "1969-12-31"),
        ("week", 0.0, "1969-12-29"),
        ("month", -40 * 86_400.0, "1969-11-01"),
        ("day", seconds("0001-06-01T00:00"), "0001-06-01"),
        ("month", seconds("9999-11-30T23:59"), "9999-11-01"),
        ("day", 7_289_654_399.5, "2200-12-31"),
    ],
)
def test_windows_reach_far_back_and_far_ahead(per: str, now_s: float, key: str) -> None:
    window = window_at(WindowSpec(per), now_s)
    assert window.key == key
    assert window.start_s <= now_s < window.end_s


@pytest.mark.parametrize("per", ["minute", "hour", "day", "week", "month"])
@pytest.mark.parametrize("now_s", [1e12, -1e12, 1e300, float("inf"), float("-inf")])
def test_an_instant_that_no_calendar_has_is_a_clear_error(per: str, now_s: float) -> None:
    with pytest.raises(ValueError, match=r"the clock says .* no calendar"):
        window_at(WindowSpec(per, "Europe/Berlin"), now_s)


@pytest.mark.parametrize("per", ["run", "lifetime", "rolling 24h"])
@pytest.mark.parametrize("now_s", [0.0, -1e15, 1e15])
def test_runs_lifetimes_and_rolling_windows_never_turn(per: str, now_s: float) -> None:
    assert window_at(WindowSpec(per), now_s) == (per, float("-inf"), float("inf"))


# --- other zones and times of day


@pytest.mark.parametrize(
    ("now", "name", "at", "key", "begin", "length"),
    [
        ("2026-11-24T23:30", "Europe/Berlin", None, "2026-11-25", "2026-11-25T00:00:00+01:00", 24),
        ("2026-12-31T15:00", "Asia/Tokyo", None, "2027-01-01", "2027-01-01T00:00:00+09:00", 24),
        ("2026-12-31T14:59", "Asia/Tokyo", None, "2026-12-31", "2026-12-31T00:00:00+09:00", 24),
        ("2026-11-24T18:29", "Asia/Kolkata", None, "2026-11-24", "2026-11-24T00:00:00+05:30", 24),
        ("2026-11-24T18:30", "Asia/Kolkata", None, "2026-11-25", "2026-11-25T00:00:00+05:30", 24),
        # Before and after the time of day.
        ("2026-11-24T05:59:59+01:00", "Europe/Berlin", "06:00", "2026-11-23", "2026-11-23T06:00:00+01:00", 24),
        ("2026-11-24T06:00:00+01:00", "Europe/Berlin", "06:00", "2026-11-24", "2026-11-24T06:00:00+01:00", 24),
        ("2027-01-01T05:00:00+01:00", "Europe/Berlin", "06:00", "2026-12-31", "2026-12-31T06:00:00+01:00", 24),
        # Days of 23 and 25 hours, and the ones that a later begin makes such.
        ("2026-03-29T10:00", "Europe/Berlin", None, "2026-03-29", "2026-03-29T00:00:00+01:00", 23),
        ("2026-10-25T10:00", "Europe/Berlin", None, "2026-10-25", "2026-10-25T00:00:00+02:00", 25),
        ("2026-03-28T10:00", "Europe/Berlin", "06:00", "2026-03-28", "2026-03-28T06:00:00+01:00", 23),
        ("2026-10-24T10:00", "Europe/Berlin", "06:00", "2026-10-24", "2026-10-24T06:00:00+02:00", 25),
        # Half an hour of daylight saving.
        ("2026-10-04T00:00", "Australia/Lord_Howe", None, "2026-10-04", "2026-10-04T00:00:00+10:30", 23.5),
        ("2026-04-05T00:00", "Australia/Lord_Howe", None, "2026-04-05", "2026-04-05T00:00:00+11:00", 24.5),
        # A time that clocks skip: the day before is no shorter, the day itself is.
        ("2026-03-29T03:29:59+02:00", "Europe/Berlin", "02:30", "2026-03-28", "2026-03-28T02:30:00+01:00", 24),
        ("2026-03-29T03:30:00+02:00", "Europe/Berlin", "02:30", "2026-03-29", "2026-03-29T03:30:00+02:00", 23),
        # A time that comes twice: the first.
        ("2026-10-25T02:29:59+02:00", "Europe/Berlin", "02:30", "2026-10-24", "2026-10-24T02:30:00+02:00", 24),
        ("2026-10-25T02:30:00+02:00", "Europe/Berlin", "02:30", "2026-10-25", "2026-10-25T02:30:00+02:00", 25),
        ("2026-10-25T02:10:00+01:00", "Europe/Berlin", "02:30", "2026-10-25", "2026-10-25T02:30:00+02:00", 25),
        # A midnight that clocks skip, and one that comes twice.
        ("2018-11-04T12:00", "America/Sao_Paulo", None, "2018-11-04", "2018-11-04T01:00:00-02:00", 23),
        ("2018-11-04T02:59:59", "America/Sao_Paulo", None, "2018-11-03", "2018-11-03T00:00:00-03:00", 24),
        ("2026-03-29T12:00", "Asia/Beirut", None, "2026-03-29", "2026-03-29T01:00:00+03:00", 23),
        ("2026-04-24T12:00", "Africa/Cairo", None, "2026-04-24", "2026-04-24T01:00:00+03:00", 23),
        ("2024-11-03T12:00", "America/Havana", None, "2024-11-03", "2024-11-03T00:00:00-04:00", 25),
        # One minute after midnight clocks went back to yesterday: today had begun.
        ("2010-11-06T23:30:00-03:30", "America/St_Johns", None, "2010-11-07", "2010-11-07T00:00:00-02:30", 25),
        ("2010-11-06T23:59:00-02:30", "America/St_Johns", None, "2010-11-06", "2010-11-06T00:00:00-02:30", 24),
        # A whole day that never was.
        ("2011-12-31T02:00:00+14:00", "Pacific/Apia", None, "2011-12-31", "2011-12-31T00:00:00+14:00", 24),
        ("2011-12-31T02:00:00+14:00", "Pacific/Apia", "06:00", "2011-12-29", "2011-12-29T06:00:00-10:00", 24),
        ("2011-12-29T23:59:59-10:00", "Pacific/Apia", None, "2011-12-29", "2011-12-29T00:00:00-10:00", 24),
    ],
)
def test_a_day_begins_at_its_local_time(
    now: str, name: str, at: str | None, key: str, begin: str, length: float
) -> None:
    window = window_at(WindowSpec("day", name, at), seconds(now))
    assert (window.key, shown(window, name)[0], hours(window)) == (key, begin, length)


@pytest.mark.parametrize(
    ("per", "now", "at", "key", "begin", "end"),
    [
        (
            "week",
            "2026-03-30T05:00:00+02:00",
            "06:00",
            "2026-03-23",
            "2026-03-23T06:00:00+01:00",
            "2026-03-30T06:00:00+02:00",
        ),
        (
            "week",
            "2026-10-25T23:00:00+01:00",
            None,
            "2026-10-19",
            "2026-10-19T00:00:00+02:00",
            "2026-10-26T00:00:00+01:00",
        ),
        (
            "month",
            "2026-03-01T05:59:59+01:00",
            "06:00",
            "2026-02-01",
            "2026-02-01T06:00:00+01:00",
            "2026-03-01T06:00:00+01:00",
        ),
        (
            "month",
            "2026-10-31T12:00:00+01:00",
            None,
            "2026-10-01",
            "2026-10-01T00:00:00+02:00",
            "2026-11-01T00:00:00+01:00",
        ),
        (
            "month",
            "2027-01-01T00:00:00+01:00",
            "18:00",
            "2026-12-01",
            "2026-12-01T18:00:00+01:00",
            "2027-01-01T18:00:00+01:00",
        ),
    ],
)
def test_weeks_and_months_begin_at_their_local_time(
    per: str, now: str, at: str | None, key: str, begin: str, end: str
) -> None:
    window = window_at(WindowSpec(per, "Europe/Berlin", at), seconds(now))
    assert (window.key, *shown(window, "Europe/Berlin")) == (key, begin, end)


@pytest.mark.parametrize(
    ("now", "name", "begin", "minutes"),
    [
        ("2026-11-24T09:30", "Asia/Kolkata", "2026-11-24T15:00:00+05:30", 60),
        ("2026-11-24T09:29", "Asia/Kolkata", "2026-11-24T14:00:00+05:30", 60),
        ("2026-11-24T09:30", "Asia/Kathmandu", "2026-11-24T15:00:00+05:45", 60),
        # An hour that comes twice is two.
        ("2026-10-25T02:30:00+02:00", "Europe/Berlin", "2026-10-25T02:00:00+02:00", 60),
        ("2026-10-25T02:30:00+01:00", "Europe/Berlin", "2026-10-25T02:00:00+01:00", 60),
        ("2026-03-29T03:10:00+02:00", "Europe/Berlin", "2026-03-29T03:00:00+02:00", 60),
        # Half an hour that comes twice, or never.
        ("2026-04-05T01:45:00+11:00", "Australia/Lord_Howe", "2026-04-05T01:00:00+11:00", 60),
        ("2026-04-05T01:45:00+10:30", "Australia/Lord_Howe", "2026-04-05T01:30:00+10:30", 30),
        ("2026-04-05T02:00:00+10:30", "Australia/Lord_Howe", "2026-04-05T02:00:00+10:30", 60),
        ("2026-10-04T02:31:00+11:00", "Australia/Lord_Howe", "2026-10-04T02:30:00+11:00", 30),
        # Clocks that moved one minute after the hour.
        ("2010-11-07T00:00:30-02:30", "America/St_Johns", "2010-11-07T00:00:00-02:30", 1),
        ("2010-11-06T23:30:00-03:30", "America/St_Johns", "2010-11-06T23:01:00-03:30", 59),
    ],
)
def test_an_hour_is_the_one_on_the_wall(now: str, name: str, begin: str, minutes: float) -> None:
    window = window_at(WindowSpec("hour", name), seconds(now))
    assert (shown(window, name)[0], hours(window) * 60) == (begin, minutes)


ZONES = (
    "UTC",
    "Africa/Cairo",
    "Africa/Casablanca",
    "Africa/Monrovia",
    "America/Caracas",
    "America/Havana",
    "America/Juneau",
    "America/New_York",
    "America/Sao_Paulo",
    "America/St_Johns",
    "Antarctica/Troll",
    "Asia/Beirut",
    "Asia/Kathmandu",
    "Asia/Kolkata",
    "Asia/Manila",
    "Asia/Pyongyang",
    "Australia/Lord_Howe",
    "Europe/Berlin",
    "Europe/Dublin",
    "Pacific/Apia",
    "Pacific/Kwajalein",
)
times_of_day = st.one_of(
    st.none(),
    st.builds("{:02}:{:02}".format, st.integers(0, 23), st.integers(0, 59)),
)
calendar = st.one_of(
    st.builds(WindowSpec, st.sampled_from(["minute", "hour"]), st.sampled_from(ZONES)),
    st.builds(WindowSpec, st.sampled_from(["day", "week", "month"]), st.sampled_from(ZONES), times_of_day),
)
instants = st.one_of(
    st.floats(-4e9, 5e9),  # 1843 to 2128
    st.integers(-4_000_000_000, 5_000_000_000).map(float),
)


@given(calendar, instants, st.floats(0, 1))
@example(WindowSpec("day", "Pacific/Apia", "06:00"), seconds("2011-12-31T02:00:00+14:00"), 0.0)
@example(WindowSpec("day", "America/St_Johns"), seconds("2010-11-06T23:30:00-03:30"), 0.5)
@example(WindowSpec("day", "America/St_Johns", "00:01"), seconds("2010-11-06T23:30:00-03:30"), 0.5)
@example(WindowSpec("hour", "Australia/Lord_Howe"), seconds("2026-04-05T01:45:00+11:00"), 0.9)
@example(WindowSpec("hour", "America/St_Johns"), seconds("2010-11-07T00:00:30-02:30"), 0.5)
@example(WindowSpec("day", "America/Juneau"), seconds("1867-10-18T12:00"), 0.5)
def test_windows_follow_each_other_without_gap_or_overlap(spec: WindowSpec, now_s: float, share: float) -> None:
    window = window_at(spec, now_s)
    assert window.start_s <= now_s < window.end_s
    assert window_at(spec, window.start_s) == window
    inside = window.start_s + share * (window.end_s - window.start_s)
    assert window_at(spec, min(inside, window.end_s - 1e-6)) == window
    after = window_at(spec, window.end_s)
    before = window_at(spec, window.start_s - 1e-6)
    assert (before.end_s, after.start_s) == (window.start_s, window.end_s)
    assert before.key < window.key < after.key or spec.per in ("minute", "hour")
    assert len({before.key, window.key, after.key}) == 3


@pytest.mark.parametrize("name", ZONES)
@pytest.mark.parametrize("per", ["hour", "day"])
def test_every_window_of_a_year_has_a_key_of_its_own(name: str, per: str) -> None:
    spec = WindowSpec(per, name)
    windows = [window_at(spec, seconds("2011-01-01T00:00"))]
    while windows[-1].end_s < seconds("2012-01-05T00:00"):
        windows.append(window_at(spec, windows[-1].end_s))
    assert all(a.end_s == b.start_s for a, b in pairwise(windows))
    assert len({window.key for window in windows}) == len(windows)


# --- specifications


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per": "daily"}, "per must be run, lifetime, minute, .* got 'daily'"),
        ({"per": "Day"}, "got 'Day'"),
        ({"per": ""}, "got ''"),
        ({"per": None}, "got None"),
        ({"per": ["day"]}, r"got \['day'\]"),
        ({"per": 24}, "got 24"),
        ({"per": "rolling"}, "1s to 366d"),
        ({"per": "rolling 0s"}, "1s to 366d"),
        ({"per": "rolling 367d"}, "1s to 366d"),
        ({"per": "rolling 1.5h"}, "1s to 366d"),
        ({"per": "rolling -1h"}, "1s to 366d"),
        ({"per": "rolling 24 h"}, "1s to 366d"),
        ({"per": "rolling 24h\n"}, "1s to 366d"),
        ({"per": "rolling ٣h"}, "1s to 366d"),
        ({"per": "rolling " + "9" * 5000 + "h"}, "1s to 366d"),
        ({"at": "24:00"}, "at must be a time of day such as '06:00', got '24:00'"),
        ({"at": "6:00"}, "at must be .* got '6:00'"),
        ({"at": "06:00:00"}, "at must be"),
        ({"at": "06:60"}, "at must be"),
        ({"at": "0٣:00"}, "at must be"),
        ({"at": ""}, "at must be"),
        ({"at": 360}, "at must be .* got 360"),
        ({"at": "06:00", "per": "hour"}, "at goes with per day, week or month, not with per hour"),
        ({"at": "06:00", "per": "rolling 1d"}, "not with per rolling 1d"),
        ({"at": "06:00", "per": "run"}, "not with per run"),
        ({"timezone": "Europe/Berlin", "per": "rolling 1d"}, "timezone goes with windows of the calendar"),
        ({"timezone": "Europe/Berlin", "per": "lifetime"}, "not with per lifetime"),
        ({"timezone": "Berlin"}, "IANA name .* got 'Berlin'"),
    ],
)
def test_a_specification_that_is_not_understood_is_a_clear_error(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        WindowSpec(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("per", "length_s"),
    [
        ("rolling 1s", 1),
        ("rolling 90m", 5400),
        ("rolling 24h", 86_400),
        ("rolling 366d", 366 * 86_400),
        ("day", None),
        ("run", None),
        ("lifetime", None),
    ],
)
def test_a_rolling_window_knows_its_length(per: str, length_s: int | None) -> None:
    assert WindowSpec(per).rolling_s == length_s


@pytest.mark.parametrize(
    "spec", [WindowSpec(), WindowSpec("week", "Europe/Berlin", "06:00"), WindowSpec("rolling 24h"), WindowSpec("run")]
)
def test_a_specification_is_a_value_that_copies_and_pickles(spec: WindowSpec) -> None:
    for twin in (copy.copy(spec), copy.deepcopy(spec), pickle.loads(pickle.dumps(spec))):
        assert (twin, hash(twin)) == (spec, hash(spec))
        assert window_at(twin, 1e9) == window_at(spec, 1e9)
    assert spec != WindowSpec("day", "Asia/Tokyo")


# --- zones


@pytest.mark.parametrize(
    "name",
    ["Mars/Olympus", "", "../etc", "/etc/passwd", "Europe", "a" * 5000, "a\0b", "\ud800", None, 5, ["UTC"], b"UTC"],
)
def test_an_unknown_zone_is_a_clear_error(name: str) -> None:
    with pytest.raises(ConfigError, match="timezone must be an IANA name"):
        zone(name)


def test_without_any_zone_files_the_error_says_what_to_install(no_zone_files: None) -> None:
    with pytest.raises(ConfigError, match="`pip install tzdata` brings all"):
        WindowSpec("day", "Europe/Berlin")


def test_utc_needs_no_zone_files(no_zone_files: None) -> None:
    assert window_at(WindowSpec("day", "UTC"), 0.0).key == "1970-01-01"


def test_a_name_that_is_not_among_the_zone_files_may_be_among_all() -> None:
    with pytest.raises(ConfigError, match="if that name is right, `pip install tzdata` brings all"):
        zone("Antarctica/Atlantis")
