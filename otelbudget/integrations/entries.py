"""`Entries`: hooks around the functions of a framework that all of its work passes, whenever its objects were made."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import FunctionType
from typing import Any, Final

from otelbudget.guards.patching import Takeover, innermost

_log = logging.getLogger("otelbudget")
#: The functions that have a hook now.
_hooked: Final[set[FunctionType]] = set()


class Entries:
    """A hook around each of *entries*, an owner, a function's name and ``hook(original, *args, **kwargs)``.

    A function that has a hook keeps that one. One that is not there is logged as a warning. Called, it takes out what
    it has put in.

    Attributes:
        missing: Functions that this version of the framework doesn't have.
    """

    def __init__(self, *entries: tuple[Any, str, Callable[..., Any]]) -> None:
        self.missing: list[str] = []
        self._taken: list[Takeover] = []
        for owner, name, hook in entries:
            function = innermost(getattr(owner, name, None))
            if function is None:
                self.missing.append(f"{owner.__name__}.{name}")
            elif function not in _hooked:
                _hooked.add(function)
                self._taken.append(Takeover(function, hook))
        if self.missing:
            _log.warning(
                "can't hook %s: not in this version; what it does there, tool calls or agents by name, isn't held",
                ", ".join(self.missing),
            )

    def __call__(self) -> None:
        """Leave the framework as it was."""
        while self._taken:
            taken = self._taken.pop()
            taken.undo()
            _hooked.discard(taken.function)
