"""What litellm's functions give: whole answers and streams, asked for or out of its cache."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final
from weakref import WeakValueDictionary

#: Whole answers from its cache, by their ``id()``.
_cached: Final[WeakValueDictionary[int, Any]] = WeakValueDictionary()


def caching(original: Callable[..., Any], *args: Any, **how: Any) -> Any:
    """Guard of what makes an answer of an entry of the cache."""
    found = original(*args, **how)
    with suppress(TypeError):  # some have no weak references, and cost what they say
        _cached[id(found)] = found
    return found


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
