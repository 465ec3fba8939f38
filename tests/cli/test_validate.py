"""`otelbudget validate` says everything that is wrong with files, for people, programs and GitHub's annotations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from otelbudget.cli import main

WRONG = "budgets:\n  quick: {max_step: 5}\n  deep: {max_tokens: 5:00}\n"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("good.yaml").write_text("budgets: {quick: {max_steps: 5}}\n")
    Path("wrong.yaml").write_text(WRONG)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_files_without_mistakes_are_fine(files: Path, capsys) -> None:
    Path("other.yaml").write_text("default_budget: {max_steps: 5}\n")
    assert main(["validate", "good.yaml", "other.yaml"]) == 0
    assert said(capsys) == "good.yaml: fine\nother.yaml: fine\n"
    assert main(["validate", "--format", "json", "good.yaml"]) == 0
    assert json.loads(said(capsys)) == []


def test_every_mistake_of_every_file_is_said_with_its_place(files: Path, capsys) -> None:
    assert main(["validate", "wrong.yaml", "good.yaml", "missing.yaml"]) == 1
    first, second, fine, missing = said(capsys).splitlines()
    assert first == "wrong.yaml:2:11: budgets.quick.max_step: unknown setting; did you mean 'max_steps'?"
    assert second.startswith("wrong.yaml:3:22: budgets.deep.max_tokens: must be a whole number")
    assert fine == "good.yaml: fine"
    assert missing == f"missing.yaml: there is no such file in {files}"


def test_programs_get_a_list_of_objects(files: Path, capsys) -> None:
    assert main(["validate", "--format", "json", "wrong.yaml", "missing.yaml"]) == 1
    first, _, missing = json.loads(said(capsys))
    assert first == {
        "file": "wrong.yaml",
        "line": 2,
        "column": 11,
        "path": "budgets.quick.max_step",
        "message": "unknown setting; did you mean 'max_steps'?",
    }
    assert (missing["file"], missing["line"], missing["column"]) == ("missing.yaml", None, None)


def test_variables_are_those_of_the_environment(files: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("var.yaml").write_text("budgets:\n  a:\n    max_steps: ${OTELBUDGET_TEST_STEPS}\n")
    assert main(["validate", "var.yaml"]) == 1
    assert "the environment variable OTELBUDGET_TEST_STEPS is not set" in said(capsys)
    monkeypatch.setenv("OTELBUDGET_TEST_STEPS", "5")
    assert main(["validate", "var.yaml"]) == 0


def test_it_wants_a_file(capsys) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["validate"])
    assert "required: FILE" in capsys.readouterr().err
