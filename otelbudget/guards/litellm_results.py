"""What litellm's functions give: whole answers and streams, asked for or out of its cache."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final
from weakref import WeakValueDictionary, finalize

#: Whole answers from its cache, by their ``id()``.
_cached: Final[WeakValueDictionary[int, Any]] = WeakValueDictionary()
#: By the same, what was asked for of embeddings that come from there in part.
_asked: Final[dict[int, Any]] = {}


def caching(original: Callable[..., Any], *args: Any, **how: Any) -> Any:
    """Guard of what makes an answer of an entry of the cache; of embeddings, with whether all of it is there."""
    made = original(*args, **how)
    found, whole = made if isinstance(made, tuple) else (made, True)
    if whole:
        with suppress(TypeError):  # some have no weak references, and cost what they say
            _cached[id(found)] = found
    return made


def combining(original: Callable[..., Any], *args: Any, **how: Any) -> Any:
    """Guard of what makes one answer of embeddings from the cache and those that were asked for."""
    made = original(*args, **how)
    _asked[id(made)] = how.get("embedding_response")
    finalize(made, _asked.pop, id(made), None).atexit = False
    return made


def asked_for(result: Any) -> Any:
    """What of *result* was asked for, which says its usage."""
    return _asked.get(id(result)) or result


def was_cached(result: Any) -> bool:
    """Whether *result* comes from there. A whole answer's own flag may be its provider's word; a stream's is litellm's,
    and a Router gives another stream with that."""
    if is_stream(result):
        return (getattr(result, "_hidden_params", None) or {}).get("cache_hit") is True
    return _cached.get(id(result)) is result


def is_stream(result: Any) -> bool:
    """Not a bare generator, which litellm wraps once more before an application sees it."""
    kind = type(result)
    return hasattr(result, "__dict__") and (hasattr(kind, "__next__") or hasattr(kind, "__anext__"))
