"""``otelbudget top``: what a shared store and the pages of processes say, the fullest first."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from redis_server import empty_server, free_port
from store_kit import Caller, lifetime

from otelbudget import BudgetManager, Quota, Quotas, QuotaService, RunBudget, load_budget_config
from otelbudget.cli import main, top
from otelbudget.telemetry.prometheus import PrometheusCollector
from otelbudget.telemetry.server import MetricsServer

FILE = """
quotas:
  default: [{{tokens: 10k, per: day, timezone: Europe/Berlin}}, {{cost_usd: $5, per: month}}]
  users: {{"*": [{{tokens: 2k, per: rolling 24h}}]}}
tenants: {{beta: {{org: widgets}}}}
store: {{url: "{}"}}
"""


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return empty_server().url if request.param == "redis" else f"sqlite:///{tmp_path / 'quotas.db'}"


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], BudgetManager]]:
    """Managers of an application, in whose folder the operator works."""
    monkeypatch.chdir(tmp_path)
    with ExitStack() as undo:

        def one(url: str) -> BudgetManager:
            Path("budgets.yaml").write_text(FILE.format(url), "utf-8")
            manager = BudgetManager(load_budget_config("budgets.yaml"))
            undo.callback(manager.shutdown)
            return manager

        yield one


@pytest.fixture
def page() -> Iterator[Callable[[BudgetManager], str]]:
    """Serves what a manager says; gives host and port."""
    with ExitStack() as undo:

        def one(manager: BudgetManager) -> str:
            registry = CollectorRegistry()
            registry.register(PrometheusCollector(manager.engine.meters))
            server = MetricsServer.start(registry, "127.0.0.1", 0)
            assert server is not None
            undo.callback(server.close)
            return f"127.0.0.1:{server.port}"

        yield one


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts something between the looks of a live view, which the last one ends with Ctrl-C."""

    def between(*steps: Callable[[], object]) -> None:
        left = list(steps)

        def sleep(_: float) -> None:
            if not left:
                raise KeyboardInterrupt
            left.pop(0)()

        monkeypatch.setattr(top, "sleep", sleep)

    return between


def look(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> tuple[list[dict[str, Any]], list[str]]:
    assert main(["top", "--once", "--json", *arguments]) == code
    said = json.loads(capsys.readouterr().out)
    return said["readings"], list(said["errors"].values())


def test_a_store_is_shown_with_its_quotas_the_fullest_first(
    url: str, make: Callable[[str], BudgetManager], capsys: pytest.CaptureFixture[str]
) -> None:
    service = QuotaService(store=make(url))
    service.consume_quota("acme", 1_000, user="a/b%")
    service.consume_quota("beta", 9_000)
    service.set_quota("acme", Quota(tokens=1_250, timezone="Europe/Berlin"))
    with service.reserve("acme", 100) as held:
        readings, errors = look(capsys)
        held.release()
    assert errors == []
    tokens = [one for one in readings if one["resource"] == "tokens"]
    assert [(one["scope"], one["whose"], one["used"], one["reserved"], one["limit"]) for one in tokens] == [
        ("tenant", "widgets/beta", 9_000, 0, 10_000),
        ("tenant", "default/acme", 1_000, 100, 1_250),
        ("user", "default/acme/a/b%", 1_000, 0, 2_000),
    ]
    assert [one["used_ratio"] for one in tokens] == [0.9, 0.88, 0.5]
    assert {one["limit"] for one in readings if one["resource"] == "cost_usd"} == {5.0}
    assert {one["whose"] for one in look(capsys, "--org", "widgets")[0]} == {"widgets/beta"}


def test_what_nobody_configured_here_is_shown_without_a_limit(
    url: str, make: Callable[[str], BudgetManager], capsys: pytest.CaptureFixture[str]
) -> None:
    manager = make(url)
    QuotaService(store=manager).consume_quota("acme", 70)
    Caller(manager.engine.store.store).record("r", 5, lifetime("run/4f"), shard="default")  # of no level that is known
    Path("budgets.yaml").unlink()
    readings, _ = look(capsys, "--store", url)
    assert [(one["scope"], one["whose"]) for one in readings if one["used"] == 5] == [("run", "4f")]
    assert ("day Europe/Berlin", "tokens", 70, None) in [
        (one["quota"], one["resource"], one["used"], one["limit"]) for one in readings
    ]
    assert main(["top", "--once", "--store", url]) == 0
    assert "day Europe/Berlin" in capsys.readouterr().out


def test_a_shared_run_is_shown_as_long_as_it_goes_on(
    url: str,
    make: Callable[[str], BudgetManager],
    capsys: pytest.CaptureFixture[str],
    rounds: Callable[..., None],
) -> None:
    manager = make(url)
    quotas = Quotas(default=[Quota(steps=9, per="run", name="each")])
    manager.reload(replace(manager.engine.config, quotas=quotas))
    with ExitStack() as first, manager.run(tenant="acme", shared=True) as other:
        run = first.enter_context(manager.run(tenant="acme", shared=True, mode="detached"))
        for one in (run, other):
            one.record_call(7)
        rounds(first.close)
        assert main(["top", "--json"]) == 0
        shown = [json.loads(line)["readings"] for line in capsys.readouterr().out.splitlines()]
        assert [{one["whose"] for one in looked if one["scope"] == "run"} for looked in shown] == [
            {run.run_id, other.run_id},
            {other.run_id},
        ]
        assert [sum(one["quota"].startswith("run UTC/") for one in looked) for looked in shown] == [6, 3]
        assert main(["quota", "list", "--json"]) == 0
        accounts = {one["account"] for one in json.loads(capsys.readouterr().out)}
        assert {one.rpartition("/")[2] for one in accounts} == {other.run_id}


def test_pages_of_processes_that_share_a_store_are_one_and_those_that_do_not_stand_side_by_side(
    url: str,
    make: Callable[[str], BudgetManager],
    page: Callable[[BudgetManager], str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    for kind, expected in ((url, [150]), ("memory", [100, 50])):
        managers = [make(kind), make(kind)]
        for manager, tokens in zip(managers, (100, 50), strict=True):
            QuotaService(store=manager).consume_quota("acme", tokens)
        readings, errors = look(capsys, *map(page, managers))
        found = [one for one in readings if (one["whose"], one["resource"]) == ("default/acme", "tokens")]
        assert [one["used"] for one in found] == expected
        assert len({one["where"] for one in found}) == len(expected)
        assert not errors


def test_runs_in_progress_are_shown_by_their_share(
    make: Callable[[str], BudgetManager],
    page: Callable[[BudgetManager], str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    manager = make("memory")
    with manager.run(RunBudget(max_steps=4, name="quick"), tenant="acme", reraise=False) as run:
        for _ in range(3):
            run.record_call(10)
        long_after = manager.engine.clock_ns() + 10**12
        monkeypatch.setattr(manager.engine.meters, "_clock_ns", lambda: long_after)
        readings, _ = look(capsys, page(manager))
    assert (f"acme/{run.run_id}", "quick", 0.75) in [
        (one["whose"], one["quota"], one["used_ratio"]) for one in readings if one["scope"] == "run"
    ]


class Other(BaseHTTPRequestHandler):
    """Something else that listens."""

    def do_GET(self) -> None:
        ours = 'otelbudget_build_info{version="1"} 1\notelbudget_budget_used{scope="tenant",tenant="%s"} %s\n'
        body = {
            "/words": b"\xff\xfe hello",
            "/broken": b'otelbudget_budget_used{scope="x" 5\n',
            "/other": b"up 1\n",
            "/nan": (ours % ("acme", "NaN")).encode(),
            "/inf": (ours % ("acme", "-Inf")).encode(),
            "/escape": (ours % ("\x1b[2Jac\\nme\x07", 5)).encode(),
        }
        self.send_response(200 if self.path in body else 503)
        self.end_headers()
        self.wfile.write(body.get(self.path, b""))

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def other() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Other) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_what_cannot_be_read_is_told_and_hides_nothing(
    make: Callable[[str], BudgetManager],
    page: Callable[[BudgetManager], str],
    other: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    manager = make("memory")
    QuotaService(store=manager).consume_quota("acme", 100)
    pages = [f"{other}{path}" for path in ("/words", "/broken", "/other", "/gone")]
    readings, errors = look(capsys, page(manager), *pages, f":{free_port()}", "127.0.0.1:65000", code=1)
    assert any(one["used"] == 100 for one in readings)
    for error, expected in zip(
        errors,
        ["no page of metrics", "no page of metrics", "no page of otelbudget", "Service Unav", "refused", "refused"],
        strict=True,
    ):
        assert expected in error


@pytest.mark.parametrize("path", ["/nan", "/inf"])
def test_amounts_that_are_no_numbers_are_left_out(other: str, path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert look(capsys, f"{other}{path}") == ([], [])


def test_names_never_steer_the_terminal(other: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "--once", f"{other}/escape"]) == 0
    head, line = capsys.readouterr().out.splitlines()
    assert "\ufffd[2Jac\ufffdme\ufffd" in line
    assert (head + line).isprintable()


def test_a_live_view_goes_on_when_a_page_goes_and_comes_and_says_as_lines_what_has_changed(
    make: Callable[[str], BudgetManager],
    page: Callable[[BudgetManager], str],
    rounds: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    manager = make("memory")
    service = QuotaService(store=manager)
    service.consume_quota("acme", 100)
    registry = CollectorRegistry()
    registry.register(PrometheusCollector(manager.engine.meters))
    port, servers = free_port(), []

    def comes() -> None:
        servers.append(MetricsServer.start(registry, "127.0.0.1", port))

    def goes() -> None:
        servers.pop().close()

    rounds(comes, lambda: service.consume_quota("acme", 100), lambda: None, goes, lambda: None)
    assert main(["top", f"127.0.0.1:{port}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert ["refused" in line for line in lines] == [True, *[False] * (len(lines) - 2), True]
    used = [line for line in lines if "acme tokens per day" in line]
    assert [" 100 0 10,000 " in used[0], " 200 0 10,000 " in used[1], len(used)] == [True, True, 2]


def test_on_a_terminal_the_table_is_drawn_over_and_shrinks_without_a_trace(
    make: Callable[[str], BudgetManager],
    page: Callable[[BudgetManager], str],
    rounds: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    manager = make("memory")
    QuotaService(store=manager).consume_quota("acme", 9_900)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    rounds(lambda: None)
    assert main(["top", page(manager), f":{free_port()}"]) == 0
    said = capsys.readouterr().out
    first, second = said.split("\x1b[?7l")[1:]
    assert "refused" in first
    assert "\x1b[33m██████████ 99%" in first
    assert second.startswith(f"\x1b[{first.count(chr(10))}A")
    assert second.endswith("\x1b[J\x1b[?7h\n")


def test_a_store_that_is_away_is_told_and_looked_for_again(
    rounds: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rounds(lambda: None)
    assert main(["top", "--store", "redis://:s3cr3t@127.0.0.1:1"]) == 0
    out, err = capsys.readouterr()
    assert out.count("refused") == 1
    assert "s3cr3t" not in out
    assert err == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name a --store that they share, or an ADDRESS of a /metrics page"),
        (["file:///etc/passwd"], "'file:///etc/passwd' is no address: write host:port"),
        (["host:x"], "'host:x' is no address"),
        (["--config", "gone.yaml"], "gone.yaml"),
        (["--store", "sqlite:quotas.db"], "store.url must be"),
    ],
)
def test_what_can_never_be_read_is_refused_at_once(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["top", *arguments]) == 2
    assert said in capsys.readouterr().err
