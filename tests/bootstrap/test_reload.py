"""`setup(reload_s=...)`: the file is followed by a thread, which ends with `shutdown()`."""

from __future__ import annotations

import os
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import otelbudget
from otelbudget import BudgetManager, Config, ConfigError, RunBudget
from otelbudget.bootstrap import facts
from otelbudget.bootstrap.follower import Follower

ONE = "budgets: {quick: {max_steps: 1}}\n"
TWO = "budgets: {quick: {max_steps: 2}}\n"


def setup(config: Any, **options: Any) -> BudgetManager:
    options = {"metrics_port": None, "exporter": "none", "instrument": False, "reload_s": 0.01, **options}
    return otelbudget.setup(config, **options)


def steps(manager: BudgetManager) -> int | None:
    return manager.engine.budget("quick").max_steps


def soon(holds: Callable[[], bool]) -> bool:
    until_s = time.monotonic() + 10
    while not holds() and time.monotonic() < until_s:
        time.sleep(0.005)
    return holds()


def replaced(path: Path, text: str) -> None:
    new = path.with_name("new")
    new.write_text(text)
    os.replace(new, path)


def followers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "otelbudget-reload"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "limits.yaml"
    path.write_text(ONE)
    return path


def test_a_changed_file_is_applied_and_a_wrong_one_is_not(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    manager = setup(path, metrics_port=0)
    assert (steps(manager), manager.engine.meters.reload_ok) == (1, True)
    replaced(path, TWO)
    assert soon(lambda: steps(manager) == 2)
    replaced(path, "budgets: 5")
    assert soon(lambda: manager.engine.meters.reload_ok is False)
    assert soon(lambda: "the last good one stays in force" in caplog.text)
    now = facts()
    assert now is not None
    assert now.metrics_url is not None
    with urllib.request.urlopen(now.metrics_url, timeout=5) as page:
        assert b"otelbudget_config_last_reload_successful 0.0" in page.read()
    assert steps(manager) == 2
    replaced(path, ONE)
    assert soon(lambda: steps(manager) == 1 and manager.engine.meters.reload_ok is True)
    assert caplog.text.count("was not reloaded") == 1


def test_shutdown_ends_the_thread_at_once_and_nothing_is_applied_any_more(path: Path) -> None:
    manager = setup(path, reload_s=3600)
    assert len(followers()) == 1
    began_s = time.monotonic()
    otelbudget.shutdown()
    assert time.monotonic() - began_s < 5
    assert followers() == []
    replaced(path, TWO)
    assert steps(manager) == 1


def test_a_look_that_hangs_does_not_hold_up_stopping() -> None:
    entered, go_on = threading.Event(), threading.Event()

    def look() -> None:
        entered.set()
        go_on.wait()

    follower = Follower(look, 0.001)
    entered.wait()
    began_s = time.monotonic()
    follower.stop()
    assert time.monotonic() - began_s < 5
    go_on.set()
    assert soon(lambda: followers() == [])


def test_without_being_asked_nobody_follows_the_file(path: Path) -> None:
    manager = setup(path, reload_s=None)
    assert followers() == []
    replaced(path, TWO)
    assert steps(manager) == 1
    assert manager.reload()
    assert steps(manager) == 2


def test_a_second_setup_with_the_file_that_is_followed_is_the_same(path: Path) -> None:
    manager = setup(path, reload_s=3600)
    replaced(path, TWO)
    assert otelbudget.setup(path) is manager
    assert manager.reload()
    assert otelbudget.setup(str(path)) is manager
    with pytest.raises(ConfigError, match="set up already, with config other than"):
        otelbudget.setup(RunBudget(max_steps=7))
    with pytest.raises(ConfigError, match="set up already, with reload_s other than"):
        otelbudget.setup(path, reload_s=5)


def test_the_file_in_the_working_directory_can_be_followed(tmp_path: Path) -> None:
    (tmp_path / "budgets.yaml").write_text(ONE)
    manager = setup(None)
    now = facts()
    assert now is not None
    assert now.budgets == "budgets.yaml (looked at every 0.01 s)"
    replaced(tmp_path / "budgets.yaml", TWO)
    assert soon(lambda: steps(manager) == 2)


@pytest.mark.parametrize("config", [None, RunBudget(max_steps=5), Config()])
def test_what_came_from_no_file_can_not_be_followed(config: Any) -> None:
    with pytest.raises(ConfigError, match=r"follows the file of the configuration, and this one comes from none"):
        setup(config)
    assert (followers(), facts()) == ([], None)


@pytest.mark.parametrize("every_s", [0, -1, True, "5", float("nan"), float("inf")])
def test_the_time_between_two_looks_is_a_number_above_0(path: Path, every_s: Any) -> None:
    with pytest.raises(ConfigError, match=r"setup\(reload_s=...\): expected a number of seconds above 0"):
        setup(path, reload_s=every_s)
