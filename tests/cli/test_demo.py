"""``otelbudget demo`` over real HTTP in a process of its own: what was stopped, by what, and that nothing leaked."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import textwrap
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from demo_command import command, environment

pytestmark = pytest.mark.slow

VERDICT = re.compile(r"requests received by the server: (\d+), calls admitted: (\d+)  equal: nothing leaked")
STOPS = ("steps", "tokens", "money", "time", "tool calls")


def received(output: str) -> int:
    """How many requests a demo's last line tells of; they are as many as were admitted."""
    found = VERDICT.search(output.splitlines()[-1])
    assert found, output
    assert found[1] == found[2]
    return int(found[1])


def section(output: str, title: str) -> list[str]:
    """The lines under a heading."""
    lines = output.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(title)) + 1
    end = next((i for i in range(start, len(lines)) if not lines[i].startswith(" ")), len(lines))
    return lines[start:end]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    folder = tmp_path_factory.mktemp("demo")
    return subprocess.run(command(), env=environment(), cwd=folder, capture_output=True, text=True, timeout=90)


def test_it_ends_well_and_says_nothing_on_the_error_stream(whole) -> None:
    assert (whole.returncode, whole.stderr) == (0, "")
    assert received(whole.stdout) > 30


def test_every_limit_stops_somebody_and_somebody_finishes(whole) -> None:
    runs = section(whole.stdout, "Runs and their limits")[1:]
    assert len(runs) == 8
    for what in STOPS:
        assert any(line.endswith(f"stopped: {what}") for line in runs), what
    assert sum(line.endswith("answered") for line in runs) == 2
    told = section(whole.stdout, "Did anything leak?")
    assert "runs answered 2; stopped by steps 2, tokens 1, money 1, time 1, tool calls 1" in told[0]


def test_a_loop_that_ignores_refusals_sends_nothing_more(whole) -> None:
    autopilot = next(line for line in section(whole.stdout, "Runs") if "autopilot" in line)
    assert re.search(r"6/6 .* 25  stopped: steps$", autopilot)


def test_receipts_say_what_ran_out(whole) -> None:
    receipts = section(whole.stdout, "Receipts")
    assert "exhausted: steps used 4 of 4 (1 more set aside for wrap_up()), requested 1" in receipts[0]
    assert any("out of time" in line for line in receipts)
    assert any("exhausted: cost_usd used $0.0" in line for line in receipts)


def test_it_shows_the_span_of_a_refused_call(whole) -> None:
    span = " ".join(" ".join(section(whole.stdout, "The span of a refused call")).split())
    assert "status ERROR" in span
    assert "otelbudget.tenant globex" in span
    event = span.partition("event otelbudget.check ")[2]
    assert "otelbudget.decision deny" in event
    assert "otelbudget.resource steps" in event
    assert "otelbudget.limit 4.0" in event


def test_it_shows_the_counters_that_changed(whole) -> None:
    counters = " ".join(line.strip() for line in section(whole.stdout, "Counters of /metrics"))
    told = (
        '{budget="autopilot", decision="deny", operation="call", reason="limit", resource="steps", tenant="wonka"} 25'
    )
    assert told in counters
    assert '{budget="support_bot", decision="allow", operation="call", reason="", tenant="globex"} 5' in counters


def test_lines_fit_a_hundred_columns(whole) -> None:
    assert max(map(len, whole.stdout.splitlines())) <= 100


def test_a_few_tenants_are_the_ones_that_are_stopped(demo) -> None:
    done = demo("--tenants", "4")
    assert done.returncode == 0
    told = section(done.stdout, "Did anything leak?")
    assert "runs answered 0; stopped by steps 1, tokens 1, money 1, time 1" in told[0]


def test_ones_own_budgets_are_used_under_their_own_names(demo, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("budgets: {tiny: {max_steps: 1}, small: {max_steps: 2}}\n")
    done = demo("--config", "mine.yaml", "--tenants", "4")
    assert done.returncode == 0, done.stderr
    runs = section(done.stdout, "Runs")[1:]
    assert [line.split()[1:3] for line in runs] == [["tiny", "1/1"], ["small", "2/2"]] * 2
    assert received(done.stdout) == 6


def test_it_serves_load_until_its_time_is_over(demo) -> None:
    done = demo("--for", "4s")
    assert (done.returncode, done.stderr) == (0, "")
    assert received(done.stdout) > 20
    assert "ends     after 4 s, or with Ctrl-C" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "how", "code"),
    [(["--serve"], signal.SIGINT, 0), (["--serve"], signal.SIGTERM, 0), ([], signal.SIGINT, 130)],
)
def test_an_interruption_ends_it_with_its_report(arguments, how, code, tmp_path: Path) -> None:
    with subprocess.Popen(
        command(*arguments), env=environment(), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        head = ""
        while "answered" not in head and "stopped" not in head:  # the first run that ended, while others go on
            head += process.stdout.readline()
        process.send_signal(how)
        rest, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (code, "")
    received(rest)


def test_a_reader_that_has_seen_enough_breaks_nothing(tmp_path: Path) -> None:
    with subprocess.Popen(
        command("--tenants", "1"), env=environment(), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_metrics_may_go_elsewhere_and_the_proof_still_holds(demo) -> None:
    done = subprocess.run(
        [a for a in command("--tenants", "2") if a not in ("--metrics-port", "0")],
        env=environment(OTEL_METRICS_EXPORTER="none"), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "metrics  nowhere" in done.stdout
    assert received(done.stdout) > 5


def test_without_the_sdk_budgets_hold_and_no_span_is_shown(demo) -> None:
    done = demo("--tenants", "2", OTEL_SDK_DISABLED="true")
    assert done.returncode == 0, done.stderr
    assert "The span of a refused call" not in done.stdout
    assert received(done.stdout) > 5


def test_on_a_terminal_a_live_table_fills_up(tmp_path: Path) -> None:
    screen, terminal = pty.openpty()
    process = subprocess.Popen(
        command("--tenants", "2"), env=environment(TERM="xterm-256color", COLUMNS="100"), cwd=tmp_path,
        stdin=terminal, stdout=terminal, stderr=terminal,
    )  # fmt: skip
    os.close(terminal)
    shown = b""
    while True:
        try:
            piece = os.read(screen, 65536)
        except OSError:  # nobody has the terminal open any more
            break
        if not piece:
            break
        shown += piece
    os.close(screen)
    assert process.wait(30) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert text.count("Tenant") > 5
    assert "█" in text
    assert VERDICT.search(" ".join(text.split(" ")))
    assert "begins" not in text


def test_a_request_that_nobody_admitted_is_found_out() -> None:
    program = """
        import sys, urllib.request
        from otelbudget.cli import main
        from otelbudget.demo.load import Load
        start = Load.start
        def leaky(load):
            urllib.request.urlopen(f"{load._base_url}/chat/completions", b'{"messages": []}').close()
            start(load)
        Load.start = leaky
        sys.exit(main(["demo", "--metrics-port", "0", "--tenants", "1"]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=environment(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "received by the server: 6, calls admitted: 5  NOT EQUAL: budgets leaked" in done.stdout.splitlines()[-1]


def test_without_the_client_it_says_what_to_install() -> None:
    program = "import sys; sys.modules['openai'] = None\nfrom otelbudget.cli import main\nsys.exit(main(['demo']))"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "pip install 'otelbudget[openai]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_picture_in_the_repository_shows_what_the_demo_shows_today() -> None:
    picture = Path(__file__).parents[2] / "examples" / "demo.svg"
    text = "".join(ElementTree.parse(picture).getroot().itertext()).replace("\xa0", " ")
    for piece in (*(f"stopped: {what}" for what in STOPS), "nothing leaked", "otelbudget.check"):
        assert piece in text


def test_two_demos_at_once_share_the_quotas_of_a_store(tmp_path: Path) -> None:
    (tmp_path / "budgets.yaml").write_text("quotas: {org: [{steps: 25, per: lifetime}]}\n")
    shared = ("--config", "budgets.yaml", "--store", "sqlite:///quotas.db")
    both = [
        subprocess.Popen(command(*shared), env=environment(), cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [one.communicate(timeout=90)[0] for one in both]
    assert [one.returncode for one in both] == [0, 0]
    assert sum(map(received, outputs)) == 25
    assert all("quotas   shared in sqlite:///quotas.db" in output for output in outputs)
    assert all("stopped by steps" in output for output in outputs)
