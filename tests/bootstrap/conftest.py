from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import otelbudget
from otelbudget.guards import GUARDS

Script = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def _no_otel_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Each test starts without OTEL_* variables, in an empty directory, and leaves nothing switched on."""
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    yield
    otelbudget.shutdown()


@pytest.fixture(autouse=True)
def _one_sdk(monkeypatch: pytest.MonkeyPatch, _no_otel_environment: None) -> None:
    """Whatever SDKs are installed and other tests have imported, setup() in this process knows one."""
    for sdk in set(GUARDS) - {"openai"}:
        monkeypatch.delitem(GUARDS, sdk)


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Run a Python program in a process of its own, where global providers and exit handlers are its own too."""

    def run(source: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "PYTEST_", "COV_"))}
        return subprocess.run(
            [sys.executable, "-W", "error", "-c", textwrap.dedent(source), *arguments],
            env={**clean, **environment},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run
