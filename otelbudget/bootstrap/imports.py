"""`ImportHook`: does something as soon as one of some modules has been imported, now or later.

Importing the OpenAI SDK takes half a second, so `setup()` does not do it for a program that may never use it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_log = logging.getLogger(__name__)


class ImportHook(MetaPathFinder):
    """Calls what *calls* has for a module, which must not raise, inside each import of that module, or at once."""

    def __init__(self, calls: Mapping[str, Callable[[], None]]) -> None:
        self._calls = dict(calls)
        self._seen: dict[str, ModuleType] = {}
        sys.meta_path.insert(0, self)
        for name in calls:
            if sys.modules.get(name) is not None:
                self._tell(name, import_module(name))  # waits for an import that another thread is in the middle of

    def remove(self) -> None:
        """Don't call any more."""
        self._calls.clear()
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def _tell(self, name: str, module: ModuleType) -> None:
        call = self._calls.get(name)
        if call is not None and module is not self._seen.get(name):
            self._seen[name] = module
            call()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What the other finders find, with a loader that tells us when it has run."""
        if fullname not in self._calls:
            return None
        for finder in sys.meta_path:
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(fullname, path, target)
                if spec is not None:
                    if spec.loader is not None:  # else a folder, such as a program's own `agents`
                        self._follow(fullname, spec.loader)
                    return spec
        return None

    def _follow(self, name: str, loader: Any) -> None:
        """Shadow ``exec_module`` on this one loader, which stays the object that others expect to find."""
        execute: Any = getattr(loader, "exec_module", None)

        def exec_module(module: ModuleType) -> None:
            if module.__name__ != name:  # a loader that serves other modules as well
                execute(module)
                return
            vars(loader).pop("exec_module", None)
            execute(module)
            self._tell(name, module)

        if execute is not None and not isinstance(loader, type):  # a class would be shared by all modules
            with suppress(AttributeError):
                loader.exec_module = exec_module
                return
        _log.warning("can't tell when %s is imported; import it before otelbudget.setup()", name)
