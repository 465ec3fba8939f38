"""``OTELBUDGET_CONFIG=budgets.yaml opentelemetry-instrument python agent.py`` enforces, without a line in the agent."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import otelbudget
from otelbudget import ConfigError, RunBudget
from otelbudget.bootstrap import facts
from otelbudget.demo import DemoServer

ROOT = Path(__file__).parents[2]
TWO = "default_budget: two\nbudgets:\n  two: {max_steps: 2}\n"
AGENT = """
import openai

with openai.OpenAI(api_key="none", max_retries=0) as client:
    for _ in range(5):
        try:
            client.chat.completions.create(model="demo-small", messages=[{"role": "user", "content": "hi"}])
            print("answered")
        except Exception as error:
            print(type(error).__name__)
"""
Agent = Callable[..., "tuple[subprocess.CompletedProcess[str], int]"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as its wheel has it, whose entry point this is about."""
    target = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)], cwd=ROOT, check=True)
    (wheel,) = target.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(target / "installed")
    return target / "installed"


@pytest.fixture
def agent(built: Path, tmp_path: Path) -> Agent:
    """Run the agent under ``opentelemetry-instrument``: its process, and how many requests were sent."""

    def run(source: str = AGENT, **variables: str) -> tuple[subprocess.CompletedProcess[str], int]:
        (tmp_path / "budgets.yaml").write_text(TWO)
        (tmp_path / "agent.py").write_text(source)
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL", "PYTEST_", "COV_"))}
        nowhere = {f"OTEL_{signal}_EXPORTER": "none" for signal in ("TRACES", "METRICS", "LOGS")}
        with DemoServer() as server:
            done = subprocess.run(
                [Path(sys.executable).with_name("opentelemetry-instrument"), sys.executable, "agent.py"],
                env={**clean, **nowhere, "PYTHONPATH": str(built), "OPENAI_BASE_URL": server.base_url, **variables},
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=150,
            )
            return done, server.requests

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables",
    [{}, {"OTEL_TRACES_SAMPLER": "always_off"}, {"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "console"}],
)
def test_an_agent_that_never_heard_of_budgets_is_stopped(agent: Agent, variables: dict[str, str]) -> None:
    done, sent = agent(OTELBUDGET_CONFIG="budgets.yaml", **variables)
    assert [line for line in done.stdout.splitlines() if line[:1].isalpha()] == ["answered"] * 2 + [
        "BudgetExceeded"
    ] * 3, done.stderr
    assert sent == 2


@pytest.mark.slow
def test_without_the_variable_nothing_is_switched_on(agent: Agent) -> None:
    done, sent = agent()
    assert (done.stdout.split(), sent) == (["answered"] * 5, 5), done.stderr


@pytest.mark.slow
def test_an_agent_does_not_start_without_the_budgets_that_it_was_to_have(agent: Agent) -> None:
    done, sent = agent(OTELBUDGET_CONFIG="elsewhere.yaml")
    assert (done.stdout, sent) == ("", 0)
    assert done.returncode != 0
    assert "otelbudget: " in done.stderr
    assert "elsewhere.yaml" in done.stderr


@pytest.mark.slow
def test_an_application_that_calls_setup_itself_gets_the_same_manager(agent: Agent) -> None:
    done, sent = agent("import otelbudget\notelbudget.setup()\n" + AGENT, OTELBUDGET_CONFIG="budgets.yaml")
    assert (done.stdout.split(), sent) == (["answered"] * 2 + ["BudgetExceeded"] * 3, 2), done.stderr


@pytest.mark.slow
def test_a_child_process_that_works_elsewhere_has_the_same_budgets(agent: Agent) -> None:
    child = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {AGENT!r}], cwd='/', check=True)\n"
    done, sent = agent(child, OTELBUDGET_CONFIG="budgets.yaml")
    assert (done.stdout.split(), sent) == (["answered"] * 2 + ["BudgetExceeded"] * 3, 2), done.stderr


def test_setup_takes_the_file_that_the_variable_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "budgets.yaml").write_text("budgets: {}\n")
    (tmp_path / "other.yaml").write_text(TWO)
    monkeypatch.setenv("OTELBUDGET_CONFIG", str(tmp_path / "other.yaml"))
    manager = otelbudget.setup(metrics_port=None)
    now = facts()
    assert now is not None
    assert now.budgets.endswith("other.yaml")
    assert manager.remaining()["steps"] == 2
    otelbudget.shutdown()
    assert otelbudget.setup(RunBudget(max_steps=7), metrics_port=None).remaining()["steps"] == 7
    otelbudget.shutdown()
    monkeypatch.setenv("OTELBUDGET_CONFIG", "nowhere.yaml")
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        otelbudget.setup(metrics_port=None)
