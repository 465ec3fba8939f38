"""`Reloading`: a manager's configuration follows its file, or is replaced; what is wrong is never applied."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from otelbudget import forking
from otelbudget.config.watching import WatchedFile
from otelbudget.errors import ConfigError

if TYPE_CHECKING:
    from otelbudget.config import Config
    from otelbudget.engine.engine import Engine

#: The logger that users switch on, rather than that of this module.
_log = logging.getLogger("otelbudget")


class Reloading:
    """Puts other configurations in force on an engine, one at a time; `Meters.reload_ok` says whether the last was."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = forking.fresh_lock()
        source = engine.config.source
        #: That is followed. Its path is absolute, since the process may go elsewhere before it looks again.
        self.file = None if source is None else WatchedFile(os.path.abspath(source), engine.config)

    def reread(self, path: str | os.PathLike[str] | None = None) -> bool:
        """Apply what the file says, or from now on that at *path*; False if it is wrong, ConfigError without a file."""
        with self._lock:
            file = self.file if path is None else WatchedFile(os.path.abspath(path))
            if file is None:
                raise ConfigError("there is nothing to read again: the configuration came from no file; pass another")
            read = self._read(file, force=True)
            self.file = file if read else self.file
            return read

    def follow(self) -> None:
        """Apply what the file says if it has changed; what is wrong with it is logged once."""
        with self._lock:
            if self.file is not None:
                self._read(self.file)

    def apply(self, config: Config) -> None:
        """Put *config* in force. A file that is followed takes over again when it changes."""
        with self._lock:
            self._apply(config, "another configuration")

    def _read(self, file: WatchedFile, *, force: bool = False) -> bool:
        look = file.look(force=force)
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
            for what in ("telemetry", "store"):
                if getattr(config, what) != getattr(before, what):
                    said = "what the configuration says about %s changes only when the process starts anew"
                    _log.warning(said, what if what == "telemetry" else "the store")
        engine.meters.reload_ok = True
