"""What a trip under an idempotency key carries, so that another process that comes with the same key is known.

A digest is two words: what was asked, and who asks. Of one id the first has to be the same; a second word that differs
tells that somebody else has come before, and not this process with a trip of which it has lost the answer.
"""

from __future__ import annotations

import hashlib

from otelbudget.errors import IdempotencyError
from otelbudget.stores.base import Reserve, WrongWindow


def id_of(*names: str) -> str:
    """The id of all trips under a key: *names* say whose key it is, and which."""
    return f"key-{_hash(names)}"


def digest_of(asked: object, by: str) -> str:
    """What a store compares of a request: *asked*, which is told by its text, and who asks."""
    return f"{_hash(asked)} {by}"


def check(id: str, kept: str, given: str) -> None:
    """Raise IdempotencyError if the trips of these digests were for something else; those without one fit to all."""
    if kept and given and kept.partition(" ")[0] != given.partition(" ")[0]:
        raise IdempotencyError(f"{id!r} was used before with another payload")


def is_again(kept: str, asked: Reserve) -> bool:
    """Whether *asked* is for a new hold under a key of which there is one, open or ended."""
    return bool(kept and asked.digest) and not any(asked.held)


def is_of_another(kept: str, given: str) -> bool:
    """Whether both are of one key, and another process has come before."""
    return bool(kept and given) and kept != given


def on_other_lines(asked: Reserve, now_s: float) -> Exception:
    """What is wrong where the hold of *asked* was made on other lines: another process may have done that under its
    key, in windows that have ended since or with other quotas."""
    return WrongWindow(now_s) if asked.digest else ValueError(f"hold {asked.id!r} was made on other lines")


def _hash(what: object) -> str:
    return hashlib.sha256(repr(what).encode("utf-8", "surrogatepass")).hexdigest()[:32]
