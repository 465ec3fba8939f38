from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from otelbudget.config import Config, load_budget_config
from otelbudget.errors import ConfigError

Read = Callable[..., Config]
Refuse = Callable[..., list[str]]


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    monkeypatch.chdir(tmp_path)

    def read(text: str, **variables: str) -> Config:
        Path("b.yaml").write_text(text, encoding="utf-8")
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            return load_budget_config("b.yaml")

    return read


@pytest.fixture
def refuse(read: Read) -> Refuse:
    def refuse(text: str, **variables: str) -> list[str]:
        with pytest.raises(ConfigError) as refused:
            read(text, **variables)
        return str(refused.value).splitlines()

    return refuse
