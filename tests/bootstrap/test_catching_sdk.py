"""Under an SDK that catches what span processors raise, as opentelemetry-python PR #5626 would have it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import catching_sdk
import pytest

pytestmark = pytest.mark.slow
Script = Callable[..., "subprocess.CompletedProcess[str]"]

#: That, and a program that wants five calls of one that is allowed.
PATCHED = f"""{Path(catching_sdk.__file__).read_text("utf-8")}
patch()
"""
PATCHED += """
import sys
import otelbudget
from opentelemetry import trace
from otelbudget import BudgetExceeded, RunBudget

what, whose = sys.argv[1:3]
if whose == "joined":
    trace.set_tracer_provider(sdk.TracerProvider(shutdown_on_exit=False))
otelbudget.setup(RunBudget(max_steps=1), exporter="none", metrics_port=None, instrument=False)

def by_span():
    asked = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m"}
    with trace.get_tracer("a client").start_as_current_span("chat m", attributes=asked):
        sent.append(1)

def by_sdk():
    client.chat.completions.create(model="demo-small", messages=[{"role": "user", "content": "hi"}])

sent, denied = [], 0
if what == "sdk":
    import openai
    from otelbudget.demo import DemoServer
    server = DemoServer()
    server.__enter__()
    client = openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0)
for _ in range(5):
    try:
        (by_sdk if what == "sdk" else by_span)()
    except BudgetExceeded:
        denied += 1
if what == "sdk":
    client.close()
    sent = [1] * server.requests
    server.__exit__(None, None, None)
print(len(sent), denied)
otelbudget.shutdown()
"""


@pytest.mark.parametrize(
    ("what", "whose", "sent"),
    [("sdk", "ours", "1 4"), ("sdk", "joined", "1 4"), ("span", "ours", "1 4"), ("span", "joined", "5 0")],
)
def test_guards_stop_calls_and_spans_do_where_setup_makes_the_provider(
    what: str, whose: str, sent: str, script: Script
) -> None:
    """The last is what nobody can help; `doctor` says so, and strict=True fails."""
    done = script(PATCHED, what, whose)
    assert (done.stdout.strip(), done.returncode) == (sent, 0), done.stderr


@pytest.mark.parametrize(("whose", "refuses"), [("ours", False), ("joined", True)])
def test_strict_fails_where_its_spans_would_stop_nothing(whose: str, refuses: bool, script: Script) -> None:
    done = script(PATCHED.replace("instrument=False)", "instrument=False, strict=True)"), "span", whose)
    assert ("strict=True: this OpenTelemetry SDK swallows" in done.stderr) is refuses
    assert (done.returncode != 0) is refuses, done.stderr
