"""What follows a shared store by itself: it catches up with it again and again, on the store's thread."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from otelbudget.errors import StoreError

_log = logging.getLogger("otelbudget")


class Watched:
    """Whoever has a ``catch_up``, from `add` until `drop`; the first one calls *begin*, which starts the thread."""

    def __init__(self, begin: Callable[[], None]) -> None:
        self._begin = begin
        self._all: dict[Any, None] = {}

    def __contains__(self, one: object) -> bool:
        return one in self._all

    def add(self, one: Any) -> None:
        """Let *one* catch up from now on."""
        self._all[one] = None
        self._begin()

    def drop(self, one: Any) -> None:
        """Leave *one* alone."""
        self._all.pop(one, None)

    def catch_up(self) -> None:
        """Let all catch up, as long as the store can be reached; who fails otherwise is dropped."""
        for one in list(self._all):
            try:
                one.catch_up()
            except StoreError:
                return
            except Exception:  # noqa: BLE001 - whatever it is, the thread goes on
                _log.exception("%r does not follow its store any more", one)
                self.drop(one)
