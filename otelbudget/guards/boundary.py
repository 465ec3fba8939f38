"""The boundary for errors of our own inside somebody else's call: they are logged and the application goes on."""

from __future__ import annotations

import logging
import os
from types import TracebackType

from otelbudget.errors import BudgetExceeded

__all__ = ["Boundary", "contained"]

_log = logging.getLogger(__name__)


class Boundary:
    """Context manager that logs an error of its block and swallows it; under pytest it lets the error through.

    A `BudgetExceeded` is a decision, no error, and always passes.
    """

    __slots__ = ("_doing",)

    def __init__(self, doing: str) -> None:
        self._doing = doing

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception) or isinstance(error, BudgetExceeded):
            return False
        if "PYTEST_CURRENT_TEST" in os.environ:
            return False
        _log.error("otelbudget failed while %s; the call goes on", self._doing, exc_info=(type(error), error, trace))
        return True


def contained(doing: str) -> Boundary:
    """A boundary around *doing* (``"reading a request"``)."""
    return Boundary(doing)
