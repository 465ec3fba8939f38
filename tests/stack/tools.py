"""Go programs that the tests build once: what reads compose files, and the collector of the stack.

They are kept where Prometheus is, by version; a machine without Go skips what needs them, unless services are required.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NoReturn

import pytest
from prometheus_server import CACHE, Missing, prometheus_binary

HERE = Path(__file__).parent


def promtool() -> str:
    """Prometheus' own tool, which checks its files and tests rules."""
    try:
        return str(prometheus_binary("promtool"))
    except Missing as missing:
        _missing(str(missing))


def compose_reader() -> str:
    """A program that reads compose files as docker does, and says what is wrong."""
    version = _pinned(HERE / "compose" / "go.mod", r"compose-go/v2 (v\S+)")
    target = CACHE / f"compose-go-{version}" / "composecheck"
    return _built(target, HERE / "compose", ["go", "build", "-mod=readonly", "-o", "{}/composecheck", "."])


def collector() -> str:
    """The collector, of the parts that the stack's configuration names."""
    manifest = HERE / "collector" / "builder.yaml"
    version = _pinned(manifest, r"otlpreceiver (v[\d.]+)")
    builder = ["go", "run", f"go.opentelemetry.io/collector/cmd/builder@{version}", f"--config={manifest}"]
    target = CACHE / f"otelcol-{version}" / "otelcol"
    return _built(target, None, builder)


def found(program: str) -> str:
    """Where it is on the PATH."""
    return shutil.which(program) or _missing(f"no {program} on the PATH")


def _pinned(file: Path, pattern: str) -> str:
    pin = re.search(pattern, file.read_text("utf-8"))
    assert pin is not None
    return pin[1]


def _built(target: Path, directory: Path | None, command: list[str]) -> str:
    """*target*; if need be *command*, in *directory* or in the new one that ``{}`` is, makes it there."""
    if target.exists():
        return str(target)
    if not shutil.which("go"):
        _missing(f"{target.name} can't be built: Go is not installed")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        filled = [part.replace("{}", scratch) for part in command]
        done = subprocess.run(filled, cwd=directory or scratch, capture_output=True, text=True, check=False)
        if done.returncode:
            _missing(f"{target.name} can't be built: {done.stderr.strip()[-500:]}")
        (Path(scratch) / target.name).replace(target)
    return str(target)


def _missing(why: str) -> NoReturn:
    if os.environ.get("OTELBUDGET_REQUIRE_SERVICES") == "1":
        pytest.fail(why)
    pytest.skip(why)
