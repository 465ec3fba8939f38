"""`Reloading`: a manager's configuration follows its file, or is replaced; what is wrong is never applied."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING

from otelbudget import forking
from otelbudget.config.watching import Look, WatchedFile
from otelbudget.errors import ConfigError

if TYPE_CHECKING:
    from otelbudget.config import Config
    from otelbudget.engine.engine import Engine

__all__ = ["Reloading"]

#: The logger that users switch on, rather than that of this module.
_log = logging.getLogger("otelbudget")


class Reloading:
    """Puts other configurations in force on an engine, one at a time.

    Args:
        engine: Its `Meters.reload_ok` says whether the last one was applied.

    Attributes:
        file: The file that is followed; None if the configuration came from none.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = forking.fresh(threading.Lock())
        self.file: WatchedFile | None = None
        source = engine.config.source
        if source is not None:
            # Absolute, since the process may go to another directory before it looks again.
            self.file = WatchedFile(os.path.abspath(source), engine.config)

    def reread(self, path: str | os.PathLike[str] | None = None) -> bool:
        """Apply what the file, or the one at *path* from now on, says; False if it is wrong.

        Raises:
            ConfigError: There is no file to read.
        """
        with self._lock:
            file = self.file if path is None else WatchedFile(os.path.abspath(path))
            if file is None:
                raise ConfigError(
                    "there is nothing to read again: the configuration came from no file; pass another one"
                )
            read = self._applied(file, file.look(time.time(), force=True))
            if read:
                self.file = file
            return read

    def follow(self) -> None:
        """Apply what the file says if it has changed; what is wrong with it is logged once."""
        with self._lock:
            if self.file is not None:
                self._applied(self.file, self.file.look(time.time()))

    def apply(self, config: Config) -> None:
        """Put *config* in force. A file that is followed takes over again when it changes."""
        with self._lock:
            self._apply(config, "another configuration")

    def _applied(self, file: WatchedFile, look: Look) -> bool:
        if look == "refused":
            self._engine.meters.reload_ok = False
            _log.error("the configuration was not reloaded, and the last good one stays in force:\n%s", file.error)
        elif look == "loaded" and file.config is not None:
            self._apply(file.config, file.path)
        return look == "loaded"

    def _apply(self, config: Config, source: str) -> None:
        engine, before = self._engine, self._engine.config
        if config != before:
            engine.reload(config)
            _log.info("the configuration was reloaded from %s; runs in progress keep their limits", source)
            if config.telemetry != before.telemetry:
                _log.warning("what the configuration says about telemetry changes only when the process starts anew")
        engine.meters.reload_ok = True
