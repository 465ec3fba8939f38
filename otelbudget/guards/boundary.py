"""The boundary for errors of our own inside somebody else's call: they are logged and the application goes on."""

from __future__ import annotations

import logging
import os
from types import TracebackType

from otelbudget.errors import BudgetExceeded

_log = logging.getLogger(__name__)


class contained:  # noqa: N801 - reads as a phrase: with contained("reading a request")
    """Logs and swallows an error of its block, except under pytest and except a BudgetExceeded, which is a decision."""

    __slots__ = ("_doing",)

    def __init__(self, doing: str) -> None:
        self._doing = doing

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception) or isinstance(error, BudgetExceeded) or "PYTEST_CURRENT_TEST" in os.environ:
            return False
        _log.error("otelbudget failed while %s; the call goes on", self._doing, exc_info=(type(error), error, trace))
        return True
