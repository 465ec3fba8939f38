"""A page of metrics tells of its own process alone; it says so once that has forked."""

from __future__ import annotations

import logging
import os

from otelbudget import forking

_log = logging.getLogger(__name__)


class ForkWatch:
    """Knows whether this process has forked since it is one."""

    def __init__(self) -> None:
        self._forks = self._said = False
        forking.before(self)
        forking.tell(self)

    def forking(self) -> None:
        """Before a fork: from now on the page does not tell of all that is spent."""
        self._forks = True

    def forked(self) -> None:
        """In a child, whose page tells of it all."""
        self._forks = self._said = False

    def scraped(self) -> None:
        """Warn, the first time a page is read that doesn't tell of all."""
        if self._forks and not self._said:
            self._said = True
            _log.warning(
                "this page tells of process %d alone: each process that it has forked counts for itself, and has a page"
                " of its own once it uses a budget",
                os.getpid(),
            )
