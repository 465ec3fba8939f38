"""What every test of the core starts from, and leaves as it was."""

from __future__ import annotations

import gc
import sys
import zoneinfo
from collections.abc import Callable, Iterator
from pathlib import Path

import certifi
import pytest
from hypothesis import settings
from opentelemetry.context import get_current
from world import World

from otelbudget.engine import context

# A slow machine is no failure.
settings.register_profile("otelbudget", deadline=None)
settings.load_profile("otelbudget")


def pytest_collection_finish() -> None:
    """Spare the collector what all the SDKs have imported: looking through it takes longer than most tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _few_certificates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One, since nobody here needs any, and each client of an SDK that is made would read 150 of them."""
    path = tmp_path_factory.mktemp("trust") / "one.pem"
    path.write_text(Path(certifi.where()).read_text("utf-8").partition("-----END")[0] + "-----END CERTIFICATE-----\n")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SSL_CERT_FILE", str(path))
        yield


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world()


@pytest.fixture
def make_world() -> Iterator[Callable[..., World]]:
    """Makes worlds; afterwards no run, tool call or permit may be left in the context, and no engine active."""
    before = get_current()
    made: list[World] = []

    def make(*args: object, **options: object) -> World:
        made.append(World(*args, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        context.deactivate(one.engine)
        one.provider.shutdown()
    assert get_current() == before


@pytest.fixture
def no_zone_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine without a database of time zones, its own or a package's."""
    for name in ("tzdata", *(one for one in list(sys.modules) if one.startswith("tzdata."))):
        monkeypatch.setitem(sys.modules, name, None)
    zoneinfo.reset_tzpath([str(tmp_path)])
    zoneinfo.ZoneInfo.clear_cache()
    yield
    zoneinfo.reset_tzpath()
    zoneinfo.ZoneInfo.clear_cache()
