"""The README's code runs as printed, its YAML loads, its commands are the ones that CI runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from otelbudget import load_budget_config
from otelbudget.demo import DemoServer

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.mark.slow
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
        said, logged = (block.strip() for block in blocks("text"))
        assert said in done.stdout
        assert logged in re.sub("run [0-9a-f]{8}", "run 1a2b3c4d", done.stderr)
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


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).is_file(), target
