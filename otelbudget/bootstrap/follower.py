"""`Follower`: a daemon thread that does something every few seconds, until it is stopped."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable

from otelbudget import forking
from otelbudget.guards.boundary import contained


class Follower:
    """Calls *look* every *every_s* seconds. An error of it is logged, and it is called again."""

    def __init__(self, look: Callable[[], None], every_s: float) -> None:
        self._look = look
        self._every_s = every_s
        self._start()
        forking.tell(self)

    def _start(self) -> None:
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="otelbudget-reload", daemon=True)
        # Without the context of whoever sets up, which would live as long as the thread.
        contextvars.Context().run(self._thread.start)

    def forked(self) -> None:
        """In a child: the thread is the parent's."""
        if not self._stopped.is_set():
            forking.later(self._start)

    def stop(self) -> None:
        """Look no more; waits for a moment where it is looking right now."""
        self._stopped.set()
        self._thread.join(0.2)

    def _follow(self) -> None:
        while not self._stopped.wait(self._every_s):
            with contained("looking whether the configuration has changed"):
                self._look()
