"""Exact counts of text: by a tokenizer of the user's or by tiktoken, and by estimate where neither can say.

One tokenizer counts for the whole process, from `use` on. It never stops a call: what raises or makes no sense is
warned of once, and the estimate taken.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from hashlib import sha1, sha256
from pathlib import Path
from typing import Any, Final, Protocol

from otelbudget.estimate.text import text_tokens
from otelbudget.model.amounts import CEILING

_log = logging.getLogger("otelbudget")
#: Texts from this length on are remembered, so many of them: tiktoken takes 20 to 170 microseconds per 1,000
#: characters, and an agent sends all earlier turns with each next one.
_WORTH: Final = 256
_REMEMBERED: Final = 4_096
#: Vocabularies of tiktoken, each with the SHA-256 that it expects of the file (tiktoken_ext.openai_public): another
#: file would make it fetch the right one.
_VOCABULARIES: Final = {
    "o200k_base": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    "cl100k_base": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
}
_ADDRESS: Final = "https://openaipublic.blob.core.windows.net/encodings/{}.tiktoken"


class Tokenizer(Protocol):
    """Counts the tokens of a text for a model; None where it does not know the model.

    It is called by any thread, before each request that is sent, so it should be fast.
    """

    def __call__(self, text: str, model: str | None, /) -> int | None:
        """The tokens of *text*; *model* is None where nobody said."""
        ...


class Counter:
    """Counts texts by *tokenizer*, each text once as long as it is remembered."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # By hash rather than by text, so that the memory has a bound.
        self._counts: dict[tuple[str | None, int, int], int | None] = {}
        self._warned = False

    def __call__(self, text: str, model: str | None) -> int:
        """The tokens of *text*, at least 1; of an empty one 0."""
        if not text:
            return 0
        if len(text) < _WORTH:
            counted = self._counted(text, model)
        else:
            key = (model, hash(text), len(text))
            counted = self._counts.get(key, -1)
            if counted == -1:
                if len(self._counts) >= _REMEMBERED:
                    self._counts = {}
                counted = self._counts[key] = self._counted(text, model)
        return text_tokens(text) if counted is None else counted

    def _counted(self, text: str, model: str | None) -> int | None:
        try:
            counted = self._tokenizer(text, model)
        except Exception as error:  # noqa: BLE001  the user's code must not stop the call it counts for
            self._warn("raised", error)
            return None
        if counted is None or (type(counted) is int and 0 < counted < CEILING):
            return counted
        self._warn("gave", counted)
        return None

    def _warn(self, did: str, what: object) -> None:
        if not self._warned:
            self._warned = True
            _log.warning("the tokenizer %r %s %r: such texts are estimated", self._tokenizer, did, what)


_current: Counter | None = None


def use(tokenizer: Tokenizer | None) -> None:
    """Count all texts by *tokenizer* from now on; None estimates them."""
    global _current
    _current = None if tokenizer is None else Counter(tokenizer)


def count_texts(texts: Sequence[str], model: str | None) -> int:
    """The tokens of all *texts*, each counted for itself where there is a tokenizer, else estimated as one text."""
    counter = _current
    return text_tokens("\n".join(texts)) if counter is None else sum(counter(text, model) for text in texts)


def tiktoken() -> Tokenizer | None:
    """tiktoken with the vocabularies that this machine has; None, and a line in the log, if it has none.

    Nothing is ever fetched. Looks where tiktoken itself does: ``TIKTOKEN_CACHE_DIR``, ``DATA_GYM_CACHE_DIR``, else
    ``data-gym-cache`` in the directory of temporary files.

    Raises:
        ImportError: It is not installed.
    """
    try:
        import tiktoken
    except ModuleNotFoundError as missing:
        raise ImportError("tokenizer='tiktoken' needs tiktoken: pip install 'otelbudget[tokens]'") from missing
    where = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    directory = Path(tempfile.gettempdir(), "data-gym-cache") if where is None else Path(where)
    found = {name: tiktoken.get_encoding(name) for name in _VOCABULARIES if _is_there(directory, name)}
    if not found:
        _log.info("no vocabulary of tiktoken (%s) in %s: tokens are estimated", ", ".join(_VOCABULARIES), directory)
        return None

    def count(text: str, model: str | None, /) -> int | None:
        try:
            encoding = found.get(tiktoken.encoding_name_for_model(model or ""))
        except KeyError:
            return None
        return None if encoding is None else len(encoding.encode_ordinary(text))

    return count


def _is_there(directory: Path, name: str) -> bool:
    file = directory / sha1(_ADDRESS.format(name).encode()).hexdigest()
    try:
        return sha256(file.read_bytes()).hexdigest() == _VOCABULARIES[name]
    except OSError:
        return False


#: What `setup(tokenizer=...)` knows by name; each gives None where it can't count here.
NAMED: Final[dict[str, Callable[[], Any]]] = {"tiktoken": tiktoken}
