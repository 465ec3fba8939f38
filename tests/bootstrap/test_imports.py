"""What has to happen when a module is imported happens, whenever and however that is."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from wrapt import when_imported

from otelbudget.bootstrap.imports import ImportHook

NAME = "otelbudget_imported_sample"


@pytest.fixture
def calls() -> list[bool]:
    """Whether the module was complete at each call."""
    return []


@pytest.fixture
def hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list[bool]) -> Iterator[Callable[[], ImportHook]]:
    (tmp_path / f"{NAME}.py").write_text("import json\ndone = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    made: list[ImportHook] = []

    def make() -> ImportHook:
        made.append(ImportHook({NAME: lambda: calls.append(hasattr(sys.modules[NAME], "done"))}))
        return made[-1]

    yield make
    for one in made:
        one.remove()
    sys.modules.pop(NAME, None)
    assert not [finder for finder in sys.meta_path if isinstance(finder, ImportHook)]


def test_an_import_after_is_told_once_the_module_is_complete(hook: Callable[[], ImportHook], calls: list[bool]) -> None:
    hook()
    assert calls == []
    module = importlib.import_module(NAME)
    importlib.import_module(NAME)
    assert calls == [True]
    assert "exec_module" not in vars(module.__spec__.loader)  # type: ignore[union-attr] # it has one


def test_an_import_before_is_told_at_once(hook: Callable[[], ImportHook], calls: list[bool]) -> None:
    importlib.import_module(NAME)
    hook()
    assert calls == [True]


def test_looking_for_the_module_is_no_import(hook: Callable[[], ImportHook], calls: list[bool]) -> None:
    hook()
    assert importlib.util.find_spec(NAME) is not None
    assert importlib.util.find_spec("otelbudget_no_such_module") is None
    assert calls == []
    importlib.import_module(NAME)
    assert calls == [True]


def test_a_failed_import_is_not_told_and_the_next_one_is(
    hook: Callable[[], ImportHook], calls: list[bool], tmp_path: Path
) -> None:
    hook()
    source = tmp_path / f"{NAME}.py"
    source.write_text("raise ImportError('not today')\n")
    importlib.invalidate_caches()
    with pytest.raises(ImportError, match="not today"):
        importlib.import_module(NAME)
    assert calls == []
    source.write_text("done = 'now, with another length'\n")
    importlib.invalidate_caches()
    importlib.import_module(NAME)
    assert calls == [True]


def test_a_module_imported_anew_is_told_again_and_a_reload_is_not(
    hook: Callable[[], ImportHook], calls: list[bool]
) -> None:
    hook()
    importlib.reload(importlib.import_module(NAME))
    assert calls == [True]
    del sys.modules[NAME]
    importlib.import_module(NAME)
    assert calls == [True, True]


def test_a_removed_hook_tells_nothing(hook: Callable[[], ImportHook], calls: list[bool]) -> None:
    hook().remove()
    importlib.import_module(NAME)
    assert calls == []


def test_import_hooks_of_others_work_before_and_after(hook: Callable[[], ImportHook], calls: list[bool]) -> None:
    theirs: list[str] = []
    when_imported(NAME)(lambda module: theirs.append(module.__name__))
    hook()
    when_imported(NAME)(lambda module: theirs.append(module.__name__))
    importlib.import_module(NAME)
    assert calls == [True]
    assert theirs == [NAME, NAME]


def test_a_module_in_a_zip_file_is_told(
    hook: Callable[[], ImportHook], calls: list[bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{NAME}.py").unlink()
    with zipfile.ZipFile(tmp_path / "library.zip", "w") as archive:
        archive.writestr(f"{NAME}.py", "done = True\n")
    monkeypatch.syspath_prepend(tmp_path / "library.zip")
    hook()
    importlib.import_module(NAME)
    assert calls == [True]


def test_threads_that_import_at_once_are_told_once(hook: Callable[[], ImportHook], calls: list[bool]) -> None:
    hook()
    barrier = threading.Barrier(8)

    def work() -> None:
        barrier.wait()
        importlib.util.find_spec(NAME)
        importlib.import_module(NAME)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [True]


def test_a_folder_of_that_name_is_another_thing(
    hook: Callable[[], ImportHook], calls: list[bool], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / f"{NAME}.py").unlink()
    (tmp_path / NAME).mkdir()
    hook()
    assert importlib.import_module(NAME).__file__ is None
    assert (calls, caplog.text) == ([], "")


class Unfollowable(importlib.abc.Loader, importlib.abc.MetaPathFinder):
    """A loader that takes no attributes."""

    __slots__ = ()

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)

    def find_spec(self, fullname: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(fullname, self) if fullname == NAME else None

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["done"] = True


def test_a_loader_that_can_not_be_followed_imports_as_before_with_a_warning(
    hook: Callable[[], ImportHook], calls: list[bool], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "meta_path", [Unfollowable(), *sys.meta_path])
    made = hook()
    assert importlib.import_module(NAME).done
    assert calls == []
    assert "import it before otelbudget.setup()" in caplog.text
    made.remove()
