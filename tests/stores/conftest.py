"""The clock, the stores of the suite, and SQLite stores of one file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from shared_kit import handed_out
from store_kit import STORES, Caller, Clock

from otelbudget.stores.sqlite import SqliteStore


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def stores_closed() -> Iterator[None]:
    """Closes what the places of shared quotas handed out."""
    yield
    while handed_out:
        handed_out.pop().close()


@pytest.fixture(params=STORES)
def caller(request: pytest.FixtureRequest, clock: Clock, tmp_path: Path) -> Iterator[Caller]:
    """Asks each store of the suite, one after the other."""
    store = STORES[request.param](clock, tmp_path)
    yield Caller(store)
    store.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "quotas.db"


@pytest.fixture
def make(path: Path, clock: Clock) -> Iterator[Callable[..., Caller]]:
    """Makes stores of one file, and closes them."""
    made: list[SqliteStore] = []

    def one(at: Path = path, **options: Any) -> Caller:
        made.append(SqliteStore(at, **{"clock_s": clock, "timeout_s": 0.3, **options}))
        return Caller(made[-1])

    yield one
    for store in made:
        store.close()
