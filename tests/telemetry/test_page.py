"""The page's own text: what Prometheus' libraries make of it, and since when each series counts."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_classic

from otelbudget.telemetry import page as pages
from otelbudget.telemetry.page import Page
from otelbudget.telemetry.prometheus import PrometheusCollector
from otelbudget.telemetry.server import MetricsServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Traffic

ODD = 'a"b\\c\nd'


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now_s = 1_700_000_000.0
        self.looked = 0

    def time(self) -> float:
        return self.now_s

    def monotonic(self) -> float:
        self.now_s += 1
        self.looked += 1
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pages, "time", clock)
    return clock


def _created(page: Page) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in parse_openmetrics(page.text(True).decode())
        for sample in family.samples
        if sample.name.endswith("_created")
    }


def test_the_page_says_what_a_registry_of_prometheus_client_says(busy: Traffic) -> None:
    busy.meters.tenant(ODD)
    registry = CollectorRegistry()
    registry.register(PrometheusCollector(busy.meters))
    page = Page(busy.meters)
    classic = list(parse_classic(page.text(False).decode()))
    assert classic == list(parse_classic(generate_latest(registry).decode()))
    ours = list(parse_openmetrics(page.text(True).decode()))
    theirs = list(parse_openmetrics(generate_openmetrics(registry).decode()))
    for family in ours:
        family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
    assert [(f.name, f.type, f.samples) for f in ours] == [(f.name, f.type, f.samples) for f in theirs]


def test_every_counter_and_histogram_says_since_when_it_counts_in_openmetrics_only(busy: Traffic) -> None:
    page = Page(busy.meters)
    for family in parse_openmetrics(page.text(True).decode()):
        counted = {frozenset(s.labels.items()) for s in family.samples if s.name.endswith(("_total", "_count"))}
        since = {frozenset(s.labels.items()) for s in family.samples if s.name.endswith("_created")}
        assert since == (counted if family.type in ("counter", "histogram") else set())
    assert b"_created" not in page.text(False)


def test_a_series_counts_since_the_scrape_before_it_appeared(quiet: Traffic, clock: Clock) -> None:
    page = Page(quiet.meters)
    quiet.spend("acme", "small-1", (1, 1), 9)
    first = ("otelbudget_cost_usd_created", "acme", "small-1")
    assert _created(page)[first] == 1_700_000_000
    clock.now_s = 1_700_000_100
    page.text(False)
    seen_s = clock.now_s
    clock.now_s += 50
    quiet.spend("globex", "small-1", (1, 1), 9)
    created = _created(page)
    assert created[first] == 1_700_000_000
    assert created["otelbudget_cost_usd_created", "globex", "small-1"] == pytest.approx(seen_s, abs=2)
    assert _created(page) == created


def test_in_a_fork_all_series_count_since_then(busy: Traffic, clock: Clock) -> None:
    page = Page(busy.meters)
    page.text(True)
    clock.now_s += 1_000
    busy.meters.forked()
    page.forked()
    assert min(_created(page).values()) >= 1_700_001_000


def test_scrapes_that_wait_for_one_at_work_share_the_next(
    busy: Traffic, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Page(busy.meters)
    render, rendered, go_on, at_work = page._render, [], threading.Event(), threading.Event()

    def slow(*form: bool) -> bytes:
        rendered.append(form)
        at_work.set()
        assert go_on.wait(20)
        return render(*form)

    monkeypatch.setattr(page, "_render", slow)
    texts: list[bytes] = []
    scrapers = [threading.Thread(target=lambda: texts.append(page.text(True, True))) for _ in range(8)]
    scrapers[0].start()
    assert at_work.wait(20)
    for scraper in scrapers[1:]:
        scraper.start()
    while clock.looked < 9:  # the first when it asked and when it began, the others when they asked
        assert scrapers[0].is_alive()
    go_on.set()
    for scraper in scrapers:
        scraper.join(20)
    assert len(texts) == 8
    assert len(rendered) == 2


@pytest.fixture
def server(busy: Traffic) -> Iterator[MetricsServer]:
    with closing(MetricsServer.start(Page(busy.meters), "127.0.0.1", 0)) as server:
        yield server


def _answer(server: MetricsServer, path: str, method: str = "GET") -> tuple[int, int, bytes]:
    """Status, length that the headers say, and body."""
    request = urllib.request.Request(server.url.replace("/metrics", path), method=method)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, int(answer.headers.get("Content-Length") or -1), answer.read()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, int(refused.headers.get("Content-Length") or -1), refused.read()


@pytest.mark.parametrize(
    ("method", "path", "status", "said"),
    [
        ("GET", "/metrics", 200, b"otelbudget_build_info"),
        ("GET", "/", 200, b"otelbudget_build_info"),
        ("HEAD", "/metrics", 200, b""),
        ("GET", "/-/healthy", 200, b"OK"),
        ("HEAD", "/-/healthy", 200, b""),
        ("GET", "/metricz", 404, b"/metrics"),
        ("GET", "/favicon.ico", 404, b""),
        ("POST", "/metrics", 405, b"GET"),
    ],
)
def test_what_is_answered(server: MetricsServer, method: str, path: str, status: int, said: bytes) -> None:
    answered, length, body = _answer(server, path, method)
    assert answered == status
    assert length == (len(_answer(server, path)[2]) if method == "HEAD" else len(body))
    assert said in body
    assert method != "HEAD" or not body


def test_a_page_is_compressed_for_those_who_ask(server: MetricsServer, busy: Traffic) -> None:
    import gzip

    request = urllib.request.Request(server.url, headers={"Accept-Encoding": "gzip"})
    with urllib.request.urlopen(request, timeout=5) as answer:
        assert answer.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(answer.read()) == Page(busy.meters).text(False)
