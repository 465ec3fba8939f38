"""A configuration file that may change while it is used: what changed is read, what is wrong is not applied."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Final, Literal

from otelbudget.config.loader import contents, named, parse
from otelbudget.config.settings import Config
from otelbudget.errors import ConfigError

#: What looking at the file came to.
Look = Literal["same", "loaded", "refused"]

#: Some file systems note times only so finely: a file that was written this recently, in seconds, may be written again
#: without looking any different from outside.
_RECENT_S: Final = 3.0


class WatchedFile:
    """The configuration in a file, and the last good one while the file is wrong, half written or gone.

    Nothing here waits, logs or starts a thread: whoever holds one calls `look` now and then, from one thread at a time.

    Args:
        path: The file; it need not be there yet.
        config: The configuration in use until the file gives another one.
        variables: What ``${NAME}`` is replaced from; the process environment, as it is then, if None.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        config: Config | None = None,
        *,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.path = named(path)
        self.config = config
        #: What is wrong with the file as it was last seen; None if it is good or was not looked at.
        self.error: ConfigError | None = None
        self._variables = variables
        self._seen: tuple[int, ...] | None = None
        self._digest: bytes | None = None

    def look(self, now_s: float, *, force: bool = False) -> Look:
        """Read the file if it changed since it was last looked at, or anyhow with *force*, as variables may have too.

        Returns:
            ``"loaded"``: `config` is new. ``"refused"``: the file changed and is wrong, which `error` says; `config`
            is as before. ``"same"``: nothing new.
        """
        seen = _outside(self.path)
        if not force and seen is not None and seen == self._seen:
            return "same"
        # Noted before it is read: what is written meanwhile looks different the next time.
        self._seen = None if seen is None or now_s - seen[0] / 1e9 < _RECENT_S else seen
        try:
            data = contents(self.path)
        except ConfigError as error:
            self._seen = None  # a permission that is mended leaves the file's times as they are
            return self._refuse(error, None, force=force)
        digest = hashlib.sha256(data).digest()
        if digest == self._digest and not force:
            return "same"
        try:
            config = parse(data, self.path, self._variables)
        except ConfigError as error:
            return self._refuse(error, digest, force=force)
        self.config, self.error, self._digest = config, None, digest
        return "loaded"

    def _refuse(self, error: ConfigError, digest: bytes | None, *, force: bool) -> Look:
        known = self.error is not None and (str(self.error), self._digest) == (str(error), digest)
        self.error, self._digest = error, digest
        return "same" if known and not force else "refused"


def _outside(path: str) -> tuple[int, ...] | None:
    """What a file looks like from outside. Links are followed, as Kubernetes swaps them to replace a file."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev
