"""A configuration file that may change while it is used: what changed is read, what is wrong is not applied."""

from __future__ import annotations

import os
from typing import Literal

from otelbudget.config.loader import contents, named, parse
from otelbudget.config.settings import Config
from otelbudget.errors import ConfigError

#: What looking at the file came to.
Look = Literal["same", "loaded", "refused"]


class WatchedFile:
    """The configuration in a file, and the last good one while the file is wrong, half written or gone.

    Nothing here waits, logs or starts a thread: whoever holds one calls `look` now and then, from one thread at a time.

    Args:
        path: The file; it need not be there yet.
        config: The configuration in use until the file gives another one.
    """

    def __init__(self, path: str | os.PathLike[str], config: Config | None = None) -> None:
        self.path = named(path)
        self.config = config
        #: What is wrong with the file as it was last seen; None if it is good or was not looked at.
        self.error: ConfigError | None = None
        self._seen: bytes | None = None

    def look(self, *, force: bool = False) -> Look:
        """Read the file, and understand it if it says something new, or anyhow with *force*, as variables may.

        Returns:
            ``"loaded"``: `config` is new. ``"refused"``: the file changed and is wrong, which `error` says; `config`
            is as before. ``"same"``: nothing new.
        """
        data, before = None, self._seen
        try:
            data = contents(self.path)
            if data == before and not force:
                return "same"
            self._seen = data
            self.config = parse(data, self.path)
        except ConfigError as error:
            known = str(self.error) == str(error) and data == before
            self.error, self._seen = error, data
            return "same" if known and not force else "refused"
        self.error = None
        return "loaded"
