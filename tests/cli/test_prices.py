"""`otelbudget prices` says what a model costs, and whose price that is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from otelbudget.cli import main


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_one_model_is_shown_with_its_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prices", "show", "gemini-2.5-pro", "--provider", "gcp.gemini"]) == 0
    shown = capsys.readouterr().out
    assert "gemini-2.5-pro, priced by genai-prices" in shown
    assert "google/gemini-2.5-pro" in shown
    assert "input $1.25, output $10" in shown
    assert "above 200,000 input tokens: input $2.5, output $15" in shown


def test_the_address_that_is_called_says_whose_price_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["prices", "show", "openai/gpt-4o", "--json", "--base-url", "https://openrouter.ai/api/v1"]
    assert main(asked) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["usd"]["input"], found["usd"]["cache_read"]) == ("openai/gpt-4o", 2.5, 1.25)
    assert ": openrouter/openai/gpt-4o" in found["source"]
    assert main(["prices", "show", "openai/gpt-4o"]) == 0
    assert ": openai/gpt-4o;" in capsys.readouterr().out, "not knowing the address, by the provider in the name"
    assert main(["prices", "show", "nobody/gpt-4o"]) == 1
    assert "no price is known" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("gpt-40", "no price is known of 'gpt-40'; did you mean 'gpt-4o'?"),
        ("zzzzqq", "'zzzzqq'; add one under `prices:`"),
    ],
)
def test_a_misspelt_model_is_told_what_is_close_to_it(
    model: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("genai_prices")
    assert main(["prices", "show", model]) == 1
    assert says in capsys.readouterr().out


def test_prices_of_the_file_come_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "budgets.yaml").write_text(
        "prices:\n  gpt-4o: {input: $7, output: $8, search: $0.01, tiers: {priority: 2}}\n  'in-house-*': {input: $1}\n"
    )
    assert main(["prices", "show", "gpt-4o-2024-08-06", "--tier", "priority", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["source"], found["usd"]["output"], found["usd"]["search"]) == ("prices: gpt-4o, priority", 16, 0.02)
    assert main(["prices", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["gpt-4o", "in-house-*"]
    assert len(lines) > 1_000
    assert not any(line.startswith("gpt-4o ") for line in lines[2:])
    assert main(["prices", "list", "--provider", "groq", "--json"]) == 0
    assert all("prices" in one["source"] for one in json.loads(capsys.readouterr().out))


@pytest.mark.parametrize(
    ("name", "listed"), [("aws.bedrock", "aws"), ("gcp.gemini", "google"), ("azure.ai.openai", "azure")]
)
def test_the_list_of_a_provider_is_found_by_the_name_that_telemetry_has_for_it(
    name: str, listed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prices", "list", "--provider", name, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found) > 10
    assert {one["source"].partition(": ")[2].partition("/")[0] for one in found} == {listed}
    assert main(["prices", "list", "--provider", "nobody"]) == 1
