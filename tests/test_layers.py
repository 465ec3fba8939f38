"""A module imports only from rows above its own, so the package can be read from top to bottom."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import otelbudget

PACKAGE = Path(otelbudget.__file__).parent

#: Rows of the package, lowest first. A room is a module or a folder below `otelbudget`; it imports from rows before its
#: own, and from its own row.
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
    ("integrations",),
    ("bootstrap",),
    ("",),
    ("demo",),
    ("cli",),
    ("__main__",),
)
TOP = "otelbudget"
FILES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def row(name: str) -> int:
    return next(i for i, names in enumerate(ROWS) if name in names)


def imports(module: str) -> set[str]:
    """The files that *module* imports, also inside functions; for type checkers only, those of other rooms."""
    tree = ast.parse(FILES[module].read_text("utf-8"))
    typed = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: a relative import hides which room it reaches into"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in FILES else str(node.module) for name in names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Constant):  # what import_module is given
            names = [str(node.value)] if node.value != TOP else []  # that is a logger
        names = [name for name in names if name in FILES]
        found |= {name for name in names if not (id(node) in typed and room(name) == room(module))}
    return found - {module}


GRAPH = {module: imports(module) for module in FILES if module != "otelbudget"}


def test_every_module_has_a_row() -> None:
    assert {room(module) for module in FILES} == {name for names in ROWS for name in names}


def test_imports_point_down() -> None:
    upwards = {
        (module, imported)
        for module, found in GRAPH.items()
        for imported in found
        if row(room(imported)) > row(room(module))
    }
    assert not upwards, f"these import from a row after their own: {sorted(upwards)}"


def test_no_imports_go_in_a_circle() -> None:
    files = {module: {name for name in found if name in GRAPH} for module, found in GRAPH.items()}
    rooms: dict[str, set[str]] = {room(module): set() for module in files}
    for module, found in files.items():
        rooms[room(module)] |= {room(name) for name in found} - {room(module)}
    for left in (files, rooms):
        while ends := [one for one, found in left.items() if not found]:
            left = {one: found - set(ends) for one, found in left.items() if one not in ends}
        assert not left, f"these are in a circle, or lead into one: {sorted(left)}"


def test_the_top_of_the_package_has_few_loose_files() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 9


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


def test_every_lock_is_one_that_forks_and_signal_handlers_know() -> None:
    made = {
        f"{module}: {ast.unparse(node)}"
        for module, path in FILES.items()
        if room(module) not in ("forking", "demo")  # which is another program
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("Lock", "RLock", "Condition")
    }
    assert not made, "take forking.held_lock() or fresh_lock()"
