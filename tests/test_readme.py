"""The README's code runs as printed, its YAML loads, its commands are the ones that CI runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from otelbudget import BudgetRun, load_budget_config, semconv
from otelbudget.demo import DemoServer

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_a_python_block_runs_by_itself(number: int, tmp_path: Path) -> None:
    with DemoServer() as server:
        environment = {**os.environ, "OPENAI_API_KEY": "none", "OPENAI_BASE_URL": server.base_url}
        done = subprocess.run(
            [sys.executable, "-W", "error::UserWarning", "-c", blocks("python")[number]],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment,
            cwd=tmp_path,
        )
        received = server.requests
    assert done.returncode == 0, done.stderr
    if number == 0:
        assert received == 5
        said = blocks("text")[0].strip()
        assert said in done.stdout
        assert f"refused (limit): {said}" in re.sub("run [0-9a-f]{8} ", "run ", done.stderr)
    if "exporter" in blocks("python")[number]:
        assert "['otelbudget.check', 'otelbudget.record']" in done.stdout


def test_the_yaml_blocks_load(tmp_path: Path) -> None:
    path = tmp_path / "budgets.yaml"
    path.write_text(blocks("yaml")[0], "utf-8")
    config = load_budget_config(path)
    assert set(config) == {"quick_answer", "deep_research"}
    assert config["quick_answer"].max_tokens == 2000
    path.write_text(blocks("yaml")[1], "utf-8")
    quotas = load_budget_config(path).quotas
    assert [quota.name for quota in quotas.found("tenants", "acme")[1]] == ["tokens per day", "cost_usd per month"]
    assert quotas.found("tenants", "acme")[1][0].limits_of["low"][1] == 1_200_000


def test_there_are_two_commands_and_ci_runs_the_second() -> None:
    demo, test = (block.strip() for block in blocks("bash"))
    assert demo.endswith("otelbudget demo")
    assert test.endswith("pytest -q")
    assert "README.md" in (ROOT / ".ci" / "run").read_text("utf-8")


def test_it_is_read_in_one_go() -> None:
    assert len(README.splitlines()) <= 200


def test_the_metrics_that_it_names_are_ours() -> None:
    ours = [name for constant, name in vars(semconv).items() if constant.startswith("M_")]
    named = [
        name for row in re.findall(r"^\| (`otelbudget_[^|]*) \|", README, re.MULTILINE) for name in row.split(", ")
    ]
    assert len(named) > 10
    for name in named:
        assert any(one.endswith(name.strip("`")) for one in ours), name


def test_what_it_names_is_there() -> None:
    for place in re.findall(r"`(?:python )?(examples/[a-z_]+\.py)", README):
        assert (ROOT / place).is_file(), place
    for line in re.findall(r"`(from otelbudget[a-z.]* import [A-Za-z, ]+)`", README):
        exec(line, {})
    for method in re.findall(r"`run\.([a-z_]+)", README):
        assert hasattr(BudgetRun, method), method


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).is_file(), target
