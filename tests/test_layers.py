"""A module imports only from rows above its own, so the package can be read from top to bottom."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import otelbudget

PACKAGE = Path(otelbudget.__file__).parent

#: Rows of the package, lowest first; a row may also import itself. Names are modules or folders below `otelbudget`.
ROWS = (
    ("_version", "errors", "forking", "semconv"),
    ("model",),
    ("pricing", "estimate"),
    ("config",),
    ("ledger",),
    ("stores",),
    ("telemetry",),
    ("engine",),
    ("admission",),
    ("runs",),
    ("calls",),
    ("spans",),
    ("manager",),
    ("quota",),
    ("guards",),
    ("bootstrap",),
    ("demo",),
    ("cli",),
    ("__main__",),
)
#: Imports that go up, on their way out.
UPWARDS = {
    ("stores", "engine"),
    ("engine", "admission"),
    ("engine", "runs"),
    ("demo", ""),
}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def row(name: str) -> int:
    return next(i for i, names in enumerate(ROWS) if name in names)


def imports() -> list[tuple[str, str]]:
    """(importing room, imported room) of every import that is not for type checkers only."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts == ("__init__",):
            continue
        tree = ast.parse(path.read_text("utf-8"))
        hidden = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            if id(node) in hidden:
                continue
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "otelbudget":
                names = [alias.name for alias in node.names] if node.module == "otelbudget" else [room(node.module)]
                found += [(parts[0], name) for name in names]
            elif isinstance(node, ast.Import):
                found += [(parts[0], room(a.name)) for a in node.names if a.name.split(".")[0] == "otelbudget"]
    return found


def test_every_module_has_a_row() -> None:
    rooms = {p.relative_to(PACKAGE).with_suffix("").parts[0] for p in PACKAGE.rglob("*.py")} - {"__init__"}
    assert rooms == {name for names in ROWS for name in names}


def test_imports_point_down() -> None:
    known = {name for names in ROWS for name in names}
    upwards = {
        (importer, imported) for importer, imported in imports() if imported in known and row(imported) > row(importer)
    }
    assert upwards <= UPWARDS, f"these import from a row below their own: {sorted(upwards - UPWARDS)}"


@pytest.mark.parametrize(
    "statement",
    [
        "import otelbudget",
        "from otelbudget import RunBudget, Usage, BudgetExceeded, run",
        "import otelbudget; r = otelbudget.run",
    ],
)
def test_importing_loads_nothing_that_is_not_needed(statement: str) -> None:
    heavy = (
        "prometheus_client",
        "yaml",
        "openai",
        "grpc",
        "rich",
        "genai_prices",
        "redis",
        "opentelemetry.exporter",
        "opentelemetry.sdk",
    )
    program = f"import sys; {statement}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
