"""A file that changes is read again; while it is wrong, half written or gone, the last good one stays."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from otelbudget.config import Config, watching
from otelbudget.config.watching import WatchedFile
from otelbudget.errors import ConfigError

ONE = "budgets: {quick: {max_steps: 1}}\n"
TWO = "budgets: {quick: {max_steps: 2}}\n"
WRONG = "budgets: {quick: {max_step: 2}}\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "budgets.yaml"
    path.write_text(ONE)
    return path


@pytest.fixture
def file(path: Path) -> WatchedFile:
    file = WatchedFile(path)
    assert file.look() == "loaded"
    return file


def steps(file: WatchedFile) -> int | None:
    assert file.config is not None
    return file.config["quick"].max_steps


def replaced(path: Path, text: str) -> None:
    """As editors and deployments do it: a new file takes the name of the old one."""
    new = path.with_name("new")
    new.write_text(text)
    os.replace(new, path)


def test_a_good_file_is_loaded_once(file: WatchedFile) -> None:
    assert (file.error, steps(file)) == (None, 1)
    assert [file.look() for i in range(3)] == ["same"] * 3


def test_a_file_that_was_replaced_is_loaded(file: WatchedFile, path: Path) -> None:
    replaced(path, TWO)
    assert file.look() == "loaded"
    assert steps(file) == 2
    assert file.look() == "same"


def test_a_replaced_file_of_the_same_size_and_time_is_loaded(file: WatchedFile, path: Path) -> None:
    before = path.stat()
    replaced(path, TWO)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert file.look() == "loaded"


@pytest.mark.parametrize("wrong", [WRONG, "budgets: {quick: {max_st", "", "\x00\x00", "\tx"])
def test_a_wrong_or_half_written_file_is_refused_once_and_the_last_good_one_stays(
    file: WatchedFile, path: Path, wrong: str
) -> None:
    good = file.config
    path.write_text(wrong)
    assert [file.look() for i in range(3)] == ["refused", "same", "same"]
    assert file.config is good
    assert file.error is not None
    assert file.error.problems[0].file == str(path)
    path.write_text(TWO)
    assert file.look() == "loaded"
    assert (file.error, steps(file)) == (None, 2)


def test_what_was_good_before_is_good_again(file: WatchedFile, path: Path) -> None:
    path.write_text(WRONG)
    assert file.look() == "refused"
    path.write_text(ONE)
    assert file.look() == "loaded"
    assert file.error is None


def test_another_mistake_is_told_too(file: WatchedFile, path: Path) -> None:
    path.write_text(WRONG)
    assert file.look() == "refused"
    path.write_text(WRONG + "agents: 5\n")
    assert file.look() == "refused"
    assert file.error is not None
    assert len(file.error.problems) == 2


def test_a_deleted_file_is_refused_once_and_may_come_back(file: WatchedFile, path: Path) -> None:
    path.unlink()
    assert [file.look() for i in range(3)] == ["refused", "same", "same"]
    assert "there is no such file" in str(file.error)
    assert steps(file) == 1
    path.write_text(TWO)
    assert file.look() == "loaded"
    assert steps(file) == 2


def test_a_file_that_is_touched_or_says_the_same_changes_nothing(file: WatchedFile, path: Path) -> None:
    good = file.config
    os.utime(path, ns=(0, 0))
    assert file.look() == "same"
    replaced(path, ONE)
    assert file.look() == "same"
    assert file.config is good


def test_a_swapped_link_is_followed_as_kubernetes_swaps_it(tmp_path: Path) -> None:
    for version, text in (("..1", ONE), ("..2", TWO)):
        (tmp_path / version).mkdir()
        (tmp_path / version / "budgets.yaml").write_text(text)
        os.utime(tmp_path / version / "budgets.yaml", ns=(0, 0))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "budgets.yaml").symlink_to("..data/budgets.yaml")
    file = WatchedFile(tmp_path / "budgets.yaml")
    assert file.look() == "loaded"
    (tmp_path / "..new").symlink_to("..2")
    os.replace(tmp_path / "..new", tmp_path / "..data")
    assert file.look() == "loaded"
    assert steps(file) == 2
    os.remove(tmp_path / "..2" / "budgets.yaml")
    assert file.look() == "refused", "a link that leads nowhere"
    assert steps(file) == 2


def test_a_file_written_while_it_is_read_is_read_again(
    file: WatchedFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = watching.contents

    def interrupted(source: str) -> bytes:
        data = before(source)[:20]
        replaced(path, TWO)
        return data

    replaced(path, TWO)
    monkeypatch.setattr(watching, "contents", interrupted)
    assert file.look() == "refused"
    monkeypatch.setattr(watching, "contents", before)
    assert file.look() == "loaded"


def test_what_can_not_be_read_is_tried_again_though_it_looks_the_same(
    file: WatchedFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = watching.contents

    def forbidden(source: str) -> bytes:
        raise ConfigError(f"{source}: can't be read: Permission denied")

    replaced(path, TWO)
    monkeypatch.setattr(watching, "contents", forbidden)
    assert [file.look(), file.look()] == ["refused", "same"]
    monkeypatch.setattr(watching, "contents", before)
    assert file.look() == "loaded"


def test_who_asks_gets_it_read_in_any_case(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text("budgets: {quick: {max_steps: '${STEPS}'}}\n")
    monkeypatch.setenv("STEPS", "1")
    file = WatchedFile(path)
    assert file.look() == "loaded"
    monkeypatch.setenv("STEPS", "2")
    assert file.look() == "same"
    assert file.look(force=True) == "loaded"
    assert steps(file) == 2
    monkeypatch.setenv("STEPS", "x")
    assert [file.look(force=True), file.look(force=True)] == ["refused"] * 2
    assert steps(file) == 2


def test_a_file_that_was_never_there_leaves_what_it_was_given(tmp_path: Path) -> None:
    given = Config()
    file = WatchedFile(tmp_path / "budgets.yaml", given)
    assert file.look() == "refused"
    assert file.config is given
    assert WatchedFile(tmp_path / "budgets.yaml").config is None
    with pytest.raises(ConfigError, match="a configuration is read from a path, got 5"):
        WatchedFile(5)  # type: ignore[arg-type]
