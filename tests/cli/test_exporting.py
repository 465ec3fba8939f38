"""`otelbudget dashboards export` and `alerts export` write the files of the local stack."""

from __future__ import annotations

from pathlib import Path

import pytest

from otelbudget.cli import main

GRAFANA = Path(__file__).parents[2] / "grafana"


@pytest.mark.parametrize("what", ["dashboards", "alerts"])
def test_the_files_of_the_stack_are_written_and_named(what: str, tmp_path: Path, capsys) -> None:
    target = tmp_path / "made" / what
    assert main([what, "export", "-o", str(target)]) == 0
    written = {path.name: path.read_bytes() for path in target.iterdir()}
    assert written == {path.name: path.read_bytes() for path in (GRAFANA / what).iterdir()}
    assert capsys.readouterr().out.split() == sorted(str(target / name) for name in written)


@pytest.mark.parametrize("what", ["dashboards", "alerts"])
def test_a_place_that_can_not_be_written_is_one_message(what: str, tmp_path: Path, capsys) -> None:
    (tmp_path / "file").write_text("")
    assert main([what, "export", "-o", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.startswith(f"otelbudget {what}: ")
