"""`otelbudget schema` writes the schema that the package ships."""

from __future__ import annotations

import json
from pathlib import Path

import otelbudget.config
from otelbudget.cli import main

SHIPPED = Path(otelbudget.config.__file__).with_name("budgets.schema.json").read_text("utf-8")


def test_it_goes_to_standard_output(capsys) -> None:
    assert main(["schema"]) == 0
    assert capsys.readouterr().out == SHIPPED
    assert json.loads(SHIPPED)["title"] == "budgets.yaml"


def test_it_goes_to_a_file(tmp_path: Path, capsys) -> None:
    target = tmp_path / "budgets.schema.json"
    assert main(["schema", "--output", str(target)]) == 0
    assert target.read_text("utf-8") == SHIPPED
    assert capsys.readouterr().out == ""


def test_a_place_that_can_not_be_written_is_one_message(tmp_path: Path, capsys) -> None:
    assert main(["schema", "--output", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("otelbudget schema: ")
    assert "Is a directory" in said
