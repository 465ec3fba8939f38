"""The built wheel installs alone, imports, and has everything that has to be in it."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)], cwd=ROOT, check=True)
    (built,) = target.glob("*.whl")
    return built


@pytest.mark.slow
def test_package_data_is_in_the_wheel_and_tests_are_not(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    in_tree = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "otelbudget").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert in_tree <= names
    assert {"otelbudget/py.typed", "otelbudget/config/budgets.schema.json", "otelbudget/stores/redis.lua"} <= names
    boards = {f"otelbudget/grafana/dashboards/{name}.json" for name in ("overview", "tenant", "run")}
    assert boards | {"otelbudget/grafana/alerts/otelbudget.rules.yaml"} <= names
    assert sum(name.startswith("otelbudget/demo/documents/") for name in names) > 20
    assert not [name for name in names if name.startswith(("tests", "examples", "grafana"))]


@pytest.mark.slow
def test_the_wheel_works_in_an_environment_with_nothing_else(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", str(wheel)], check=True)
    program = (
        "from otelbudget import BudgetManager, RunBudget\n"
        "m = BudgetManager(RunBudget(max_steps=1)); m.check(); m.record_call(5)\n"
        "print(m.can_proceed(), m.remaining()['steps'])"
    )
    done = subprocess.run([str(python), "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split() == ["False", "0"]
    shown = subprocess.run([str(python), "-m", "otelbudget", "--version"], capture_output=True, text=True, cwd=tmp_path)
    assert (shown.returncode, "0.1.0" in shown.stdout) == (0, True), shown.stderr
    export = [str(python), "-m", "otelbudget", "dashboards", "export", "-o", str(tmp_path / "boards")]
    subprocess.run(export, check=True, cwd=tmp_path)
    assert (tmp_path / "boards" / "overview.json").exists()
