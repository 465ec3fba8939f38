"""`ImportHook`: does something as soon as a module has been imported, now or later.

Importing the OpenAI SDK takes half a second, so `setup()` does not do it for a program that may never use it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_log = logging.getLogger(__name__)


class ImportHook(MetaPathFinder):
    """Calls *imported*, which must not raise, inside each import of the module *name*, or at once."""

    def __init__(self, name: str, imported: Callable[[], None]) -> None:
        self._name = name
        self._imported = imported
        self._seen: ModuleType | None = None
        self._on = True
        sys.meta_path.insert(0, self)
        if name in sys.modules:
            self._tell(import_module(name))  # waits for an import that another thread is in the middle of

    def remove(self) -> None:
        """Don't call any more."""
        self._on = False
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def _tell(self, module: ModuleType) -> None:
        if self._on and module is not self._seen:
            self._seen = module
            self._imported()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What the other finders find, with a loader that tells us when it has run."""
        if fullname != self._name:
            return None
        for finder in sys.meta_path:
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(fullname, path, target)
                if spec is not None:
                    self._follow(spec.loader)
                    return spec
        return None

    def _follow(self, loader: Any) -> None:
        """Shadow ``exec_module`` on this one loader, which stays the object that others expect to find."""
        execute: Any = getattr(loader, "exec_module", None)

        def exec_module(module: ModuleType) -> None:
            if module.__name__ != self._name:  # a loader that serves other modules as well
                execute(module)
                return
            vars(loader).pop("exec_module", None)
            execute(module)
            self._tell(module)

        if execute is not None and not isinstance(loader, type):  # a class would be shared by all modules
            with suppress(AttributeError):
                loader.exec_module = exec_module
                return
        _log.warning("can't tell when %s is imported; import it before otelbudget.setup()", self._name)
