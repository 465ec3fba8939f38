"""Whatever a file holds, reading it gives a Config or one ConfigError with places, and never anything else."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otelbudget.config import Config, load_budget_config
from otelbudget.errors import ConfigError

SEED = (Path(__file__).parents[2] / "budgets.yaml").read_text("utf-8")
PIECES = (
    *("{", "}", "[", "]", ":", ": ", ", ", "- ", "? ", "&a ", "*a", "<<: *a", "!!int ", "!x ", "|", ">", "%", "@", "`"),
    *("'", '"', "\\", "#", "\n", "\n  ", "\t", "---", "...", "${", "${A}", "${A:-", "$$", "null", "~", "yes", "5:00"),
    *("010", "1e999", "-1", "1.5", "50%", ".inf", "\x00", "\x7f", "\u2028", "\ufeff", "é", "🙂", "x" * 300),
    *("max_steps", "budgets", "tenants", "thresholds"),
)
PLACE = re.compile(r"b\.yaml:\d+:\d+: ")


@pytest.fixture(scope="module", autouse=True)
def variable() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("A", "7")
        yield


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "b.yaml"


def outcome(file: Path, data: bytes) -> str:
    """``config`` or ``error``, after seeing that it is one of both and nothing else."""
    file.write_bytes(data)
    try:
        assert isinstance(load_budget_config(file), Config)
    except ConfigError as error:
        for line in str(error).replace(str(file), "b.yaml").splitlines():
            assert PLACE.match(line), line
        return "error"
    return "config"


def mutated(source: random.Random) -> str:
    text = SEED
    for _ in range(source.randint(1, 4)):
        start = source.randrange(len(text))
        end = min(len(text), start + source.choice((0, 0, 1, 2, 5, 20, 200)))
        put = source.choice(PIECES) if source.random() < 0.7 else text[(at := source.randrange(len(text))) : at + 40]
        text = text[:start] + put + text[end:]
    return text


def test_mutations_of_a_real_file_are_read_or_refused(file: Path) -> None:
    source = random.Random(20_260_314)
    outcomes = [outcome(file, mutated(source).encode("utf-8")) for _ in range(500)]
    assert min(outcomes.count("config"), outcomes.count("error")) > 50, "the mutations are too mild or too wild"


def test_mutated_bytes_are_read_or_refused(file: Path) -> None:
    source = random.Random(7)
    for _ in range(100):
        data = bytearray(SEED.encode("utf-8"))
        for _ in range(source.randint(1, 5)):
            data[source.randrange(len(data))] = source.randrange(256)
        outcome(file, bytes(data))


@settings(max_examples=200)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=30).map("".join))
def test_any_text_is_read_or_refused(file: Path, text: str) -> None:
    outcome(file, text.encode("utf-8", "surrogatepass"))
