from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from demo_command import command, environment

Demo = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def demo(tmp_path: Path) -> Demo:
    """Run ``otelbudget demo`` in a process of its own, as a user does."""

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments), env=environment(**more), cwd=tmp_path, capture_output=True, text=True, timeout=90
        )

    return run
