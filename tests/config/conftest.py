from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from otelbudget.config import Config
from otelbudget.config.loader import load
from otelbudget.errors import ConfigError

Read = Callable[..., Config]
Refuse = Callable[..., list[str]]


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    monkeypatch.chdir(tmp_path)

    def read(text: str, **variables: str) -> Config:
        Path("b.yaml").write_text(text, encoding="utf-8")
        return load("b.yaml", variables)

    return read


@pytest.fixture
def refuse(read: Read) -> Refuse:
    def refuse(text: str, **variables: str) -> list[str]:
        with pytest.raises(ConfigError) as refused:
            read(text, **variables)
        return str(refused.value).splitlines()

    return refuse
