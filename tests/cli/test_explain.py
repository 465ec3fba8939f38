"""`otelbudget explain` shows which limits a call would be held to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from otelbudget.cli import main

ROOT = Path(__file__).parents[2]
ASKED = ("--tenant", "acme", "--user", "u1", "--agent", "researcher", "--model", "demo-small")


def test_people_get_a_line_per_limit(capsys) -> None:
    assert main(["explain", str(ROOT / "budgets.yaml"), *ASKED]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.startswith(
        "A call of tenant acme of org globex, user u1, agent researcher, model demo-small, priority normal"
    )
    for said in (
        "org globex $5,000 per month from 06:00 Europe/Berlin, resets 20",
        "tenant acme $200 per day, resets 20",
        "run deep_research 40 steps, 200,000 tokens, $0.5, 60 tool_calls, 20 nested_tool_calls, 300 s, depth 2 "
        "per run, of which 1 steps, 4,000 tokens for one last call; refuses (agents.researcher, ",
        "What does not limit it quotas.models says nothing of this model",
        "budgets.yaml:",
    ):
        assert said in shown


def test_people_see_what_is_kept_what_only_warns_and_what_is_not_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("b.yaml").write_text(
        "require_tenant: true\nquotas:\n  default:\n    - {tokens: 10, reserve_for: {high: 50%}}\n"
        "    - {steps: 5, per: rolling 1h, on_exhausted: warn}\n"
    )
    assert main(["explain", "b.yaml", "--model", "nobody-knows-it"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "refused: it names no tenant, and require_tenant is set (b.yaml:1)" in shown
    assert "10 tokens per day, of which 5 tokens at this priority, resets" in shown
    assert "5 steps per rolling 1h; only warns" in shown
    assert "nothing refuses steps, input_tokens" in shown


def test_conversations_and_any_number_of_tags_can_be_named(capsys) -> None:
    tags = ("--tag", "team=search", "--tag", "stage=a=b")
    assert main(["explain", str(ROOT / "budgets.yaml"), "--conversation", "c1", *tags]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "conversation c1, priority normal, tag team=search, tag stage=a=b" in shown.replace("budget", "")
    assert "conversation c1 of default $2 for ever" in shown
    assert "tag team=search in default $300 per month" in shown


def test_the_file_here_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["explain"]) == 2
    assert capsys.readouterr().err.startswith("otelbudget explain: budgets.yaml: there is no such file")
    Path("budgets.yaml").write_text("default_budget: {max_steps: 3}\n")
    assert main(["explain"]) == 0
    assert "3 steps per run; refuses (default_budget, budgets.yaml:1)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--priority", "urgent"], "unknown priority 'urgent': known are low, normal, high"),
        (["--tag", "team"], "a tag is written as team=search, got 'team'"),
        (["--tag", "=search"], "a tag is written as team=search, got '=search'"),
    ],
)
def test_a_wrong_command_line_is_refused_with_its_reason(arguments: list[str], says: str, capsys) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["explain", *arguments])
    assert says in capsys.readouterr().err


def test_an_unknown_budget_is_one_message(capsys) -> None:
    assert main(["explain", str(ROOT / "budgets.yaml"), "--budget", "quick"]) == 2
    assert "no budget is named 'quick'" in capsys.readouterr().err


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "otelbudget", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("otelbudget ")
